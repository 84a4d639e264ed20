"""Types of the records that are written as JSON: `law.json`, registered forecasts and their grades.

An end of an interval is None where the data leave it open. Records of earlier versions may lack fields.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

# the key of law.json: why a form was chosen, or why there is no law
Chosen = TypedDict("Chosen", {"why": str})  # noqa: UP013


class LeftOut(TypedDict):
    """A run that no fit takes, and the reason."""

    run_id: str
    reason: str


class Sides(TypedDict):
    """The ends of an interval; open: the sides (``below``, ``above``) that the data do not bound."""

    low: float | None
    high: float | None
    open: list[str]


InfluenceRecord = TypedDict(
    "InfluenceRecord",
    {"flops": float, "parameter": str, "with": float, "without": float, "shift": float, "exponent": float},
)


class PointRecord(TypedDict):
    """The best size of a budget; drop, noise, falls: the fall of the error to the next budget against its noise."""

    budget: float
    params: float
    flops: float
    samples_seen: float
    error: float
    sd: float | None
    seeds: int
    sizes: int
    bracketed: bool
    drop: float | None
    noise: float | None
    falls: bool | None


class ValleyRecord(TypedDict):
    """The valley of a budget; the lowest point only where ``status`` is ``accepted``."""

    budget: float
    sizes: int
    coefficients: list[float] | None
    status: str
    params: NotRequired[float]
    samples_seen: NotRequired[float]
    error: NotRequired[float]


class FormScore(TypedDict):
    """Score of a form at predicting the next budget; None where it was not tested."""

    form: str
    mean_abs_log_error: float | None
    forecasts: int


class ForecastCheck(TypedDict):
    """A forecast of the largest budget from the smaller ones, beside its measurement."""

    form: str
    flops: float
    predicted: float
    measured: float
    error: float
    low: float
    high: float
    width: float
    inside: bool
    naive: float
    naive_error: float
    beats_naive: bool
    verdict: str
    notes: list[str]


class RunBand(TypedDict):
    """The forecast of a run at a compute, with its 95 % band; an end may be infinite or None."""

    flops: float
    predicted: float
    low: float | None
    high: float | None


class FormForecast(TypedDict):
    """A form's share of an averaged forecast, with the 95 % band of its curve."""

    form: str
    weight: float
    predicted: float
    low: float
    high: float


class AveragedRecord(TypedDict):
    """The forecast averaged over forms at one compute; curve, run (of a new frontier point, the mean of its seeds) and
    union are 95 % bands [low, high].
    """

    flops: float
    median: float
    curve: list[float]
    run: list[float]
    union: list[float]
    weights: dict[str, float]
    forms: list[FormForecast]


class RunForecast(TypedDict):
    """A form's forecast: low and high of a new frontier point (the mean of its seeds), curve_low and curve_high of the
    curve.
    """

    form: str
    flops: float
    predicted: float
    low: float
    high: float
    curve_low: float
    curve_high: float


class Exponent(Sides):
    """The exponent of a law, with its interval."""

    name: str
    value: float


class FitRecord(TypedDict):
    """A law fitted to a frontier."""

    form: str
    law: str
    formula: str
    latex: str
    values: dict[str, float]
    fixed: list[str]
    intervals: dict[str, Sides]
    exponent: Exponent
    interval_kind: str
    status: str
    screened: int
    starts: int
    agree: int
    share_of_starts: float
    objective: float
    loss: list[str | float]
    condition: float
    identified: bool
    flat: list[str]
    points: int
    residual_sd: float
    seed_floor: float
    notes: list[str]
    warnings: list[str]


class FrontierRecord(TypedDict):
    """The points that a rule selects, and the laws fitted to them."""

    rule: str
    points: list[dict[str, float]]
    fits: list[FitRecord]
    left_out: dict[str, str]


class SurfaceRecord(TypedDict, total=False):
    """Chinchilla's law of size and samples, or only ``status``: why it was left out."""

    status: str
    formula: str
    values: dict[str, float]
    identified: bool
    intervals: dict[str, dict[str, float | None]]
    flat: list[str]
    starts: int
    agree: int
    screened: int
    condition: float
    objective: float
    rows: int
    notes: list[str]
    residual_sd: float
    flops: dict[str, float]


class AllocationRecord(TypedDict):
    """Exponents of the optimal size and number of samples, with standard errors, or why they are not known."""

    status: str
    params: float | None
    params_se: float | None
    samples: float | None
    samples_se: float | None
    params_intercept: float | None
    samples_intercept: float | None


class Averaging(TypedDict):
    """Rule of the weights of the average, reasons why forms have none, and what no form knows."""

    rule: str
    left_out: dict[str, str]
    limit: NotRequired[str]


class LawRecord(Chosen):
    """The content of ``law.json``."""

    title: str
    metric: str
    runs: int
    left_out: list[LeftOut]
    chance: float | None
    rows_sha256: str
    versions: dict[str, str]
    frontier_rule: str
    flops_span: float
    batch_sizes: list[int]
    seed_sd_of_log_error: float | None
    frontier: list[PointRecord]
    isoflop: list[ValleyRecord]
    isoflop_cubic: list[ValleyRecord]
    allocation: AllocationRecord
    allocation_cubic: AllocationRecord
    surface: SurfaceRecord
    winner: str | None
    rising: NotRequired[str | None]
    selection: NotRequired[str | None]
    extrapolation: list[FormScore]
    forecast_check: list[ForecastCheck]
    averaged: list[AveragedRecord]
    averaging: Averaging | None
    lr_evidence: list[dict[str, float | str]]
    fits: list[FitRecord]
    next_budget: list[RunForecast]
    warnings: list[str]
    rivals: list[str]
    moved: list[str]
    influence: list[InfluenceRecord]
    frontiers: dict[str, FrontierRecord]
    figures: NotRequired[dict[str, str | None]]


class NoiseRecord(TypedDict):
    """The scatter of a run in ln(error), the seeds to be trained, and (error, number) of each task's pictures."""

    seed_sd: float
    seed_degrees: int
    seeds: int
    pictures: NotRequired[list[list[float]]]


class Backtest(TypedDict):
    """The forecast of an earlier budget from those below it, beside its measurement."""

    flops: float
    form: str
    predicted: float
    curve: list[float | None]
    mean: list[float | None]
    run: list[float | None]
    measured: float
    naive: float
    inside: bool


class RegisteredRun(TypedDict):
    """A run that will decide a forecast."""

    run_id: str
    rung: float
    params: int
    steps: int
    seed: int
    peak_lr: float
    batch_size: int
    flops: float


class ForecastBands(TypedDict):
    """A forecast with its 95 % bands, [low, high] each."""

    form: str
    predicted: float
    curve: list[float | None]
    mean: list[float | None]
    run: list[float | None]
    mean_new_pictures: list[float | None]
    picture_sd: dict[str, float]
    weights: NotRequired[dict[str, float]]
    union: NotRequired[list[float | None]]
    forms: NotRequired[list[FormForecast]]


class ThroughRecord(TypedDict):
    """The loss through which an error was forecast, its value for guessing and its scatter, and the fit error(loss)."""

    loss: str
    chance: float | None
    noise: NoiseRecord
    link: dict[str, object]


class ForecastRecord(ForecastBands, Chosen):
    """One registered forecast: of ``forecasts/NAME.json``, formerly ``forecast.json``. Bands are [low, high]."""

    metric: str
    chance: float | None
    target: float
    rule: str
    rows_sha256: str
    rows: int
    left_out: list[LeftOut]
    versions: dict[str, str]
    noise: NoiseRecord
    law: str
    fit: FitRecord
    averaging: NotRequired[Averaging]
    extrapolation: list[FormScore]
    warnings: NotRequired[list[str]]
    naive: float
    frontier: list[PointRecord]
    rehearsals: list[Backtest]
    made_after_its_runs: NotRequired[bool]
    runs: NotRequired[list[RegisteredRun]]
    noise_floor: NotRequired[float]
    through: NotRequired[ThroughRecord]


class SeedRecord(TypedDict):
    """A seed of the target's best size, and whether it lies in the band of a run."""

    run_id: str
    seed: int
    measured: float
    inside: bool


class OutcomeRecord(TypedDict):
    """A graded forecast: of ``forecasts/NAME.outcome.json``, formerly ``outcome.json``."""

    metric: str
    target: float
    flops: float
    params: float
    sizes: int
    bracketed: bool
    measured: float
    predicted: float
    mean: list[float | None]
    inside: bool
    error: float
    naive: float
    beats_naive: bool
    seeds: list[SeedRecord]
    amendments: list[str]
    rows_sha256: str
    form: NotRequired[str]
    noise_floor: NotRequired[float]


class ArmRecord(TypedDict):
    """An arm at the largest compute that all have: its curve, and ratio and gain against the first arm."""

    arm: str
    runs: int
    at: float
    predicted: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    text: str


class CutRecord(TypedDict):
    """A fit of the rows below a cut, against the rows above it."""

    below: float
    rows_below: int
    rows_above: int
    rms: float
    bias: float
    reach: float


class HeldOutScore(TypedDict):
    """A form's held-out scores over several cuts; None where no cut has enough rows on both sides."""

    form: str
    score: float | None
    bias: float | None
    cuts: list[CutRecord]


class RankedForm(TypedDict):
    """A form's held-out score and its prediction at a target."""

    form: str
    score: float | None
    bias: float | None
    predicted: float
    low: float
    high: float
    identified: bool
    status: str


class Comparison(TypedDict):
    """Forms ranked by held-out extrapolation."""

    ranking: list[RankedForm]
    best: str
    warnings: list[str]


class ResidualChecks(TypedDict):
    """Patterns in the residuals of a fit: (rank correlation, p) by column, and the significant ones in words."""

    sd: float
    robust_sd: float
    outliers: list[int]
    trends: dict[str, tuple[float, float]]
    spread: dict[str, tuple[float, float]]
    curvature: dict[str, tuple[float, float]]
    warnings: list[str]
