"""A sweep's preregistered forecasts of untrained budgets, and their grading (`scaling.planning.preregistration`)."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from clip_jax.config.sweep import SweepConfig
from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.errors import UserError
from clip_jax.scaling.data.chance import chance_beside
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord, PlannedRun
from clip_jax.scaling.planning.preregistration import ON_BUDGET, grade, preregister_targets
from clip_jax.scaling.planning.through_loss import Through
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import as_path, list_names, mkdir, read_text
from clip_jax.sweep.analysis.forecast_text import outcome_text, registered_text
from clip_jax.sweep.collect import collect_to_fit
from clip_jax.sweep.control import sweep_config_of
from clip_jax.sweep.plan import make_cell, plan_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FOLDER, GRADED = "forecasts", ".outcome.json"
FORMER = ("forecast.json", "outcome.json")  # of a sweep that registered one target of one metric


@dataclass(frozen=True)
class Registration:
    """Forecasts that were registered together, and those of their outcomes that are known.

    name: of the file. path, graded: the two files. forecasts, outcomes: their content.
    """

    name: str
    path: Path
    graded: Path
    forecasts: tuple[ForecastRecord, ...]
    outcomes: tuple[OutcomeRecord, ...] = ()

    def outcome_of(self, forecast: ForecastRecord) -> OutcomeRecord | None:
        """Return the outcome of a forecast; None while it is not graded."""
        same = (o for o in self.outcomes if o.get("form", forecast["form"]) == forecast["form"])
        return next((o for o in same if (o["metric"], o["target"]) == (forecast["metric"], forecast["target"])), None)


def registrations(folder: Path) -> list[Registration]:
    """Return the forecasts that are registered in a sweep directory, or beside a table, oldest first."""
    known = []
    old, outcome = (read_json(folder / name) for name in FORMER)
    if old is not None:
        known.append(_registration(folder / FORMER[0], folder / FORMER[1], [old], [outcome] if outcome else []))
    names = [n for n in list_names(folder / FOLDER) if n.endswith(".json") and not n.endswith(GRADED)]
    for name in sorted(names, key=lambda n: (len(n), n)):
        path, graded = folder / FOLDER / name, folder / FOLDER / f"{name.removesuffix('.json')}{GRADED}"
        outcomes = (read_json(graded) or {}).get("outcomes", [])
        known.append(_registration(path, graded, (read_json(path) or {})["forecasts"], outcomes))
    return known


def registered_rows(folder: Path) -> list[dict[str, object]]:
    """Return a row for each forecast that is registered in a sweep directory, or beside a table, and how it came out.

    ``times``: the target over the largest budget of the fit; ``off``: predicted / measured - 1; ``noise_floor``: the
    scatter of the measured mean; ``measured`` and what follows from it are None before the runs have finished.
    """
    rows: list[dict[str, object]] = []
    for registration in registrations(folder):
        for f in registration.forecasts:
            outcome = registration.outcome_of(f)
            measured = outcome["measured"] if outcome else None
            rows.append({
                "registration": registration.name, "metric": f["metric"], "form": f["form"], "flops": f["target"],
                "times": f["target"] / max(p["budget"] for p in f["frontier"]), "predicted": f["predicted"],
                "low": f["mean"][0], "high": f["mean"][1], "noise_floor": f.get("noise_floor"), "naive": f["naive"],
                "measured": measured, "off": f["predicted"] / measured - 1 if measured else None,
                "inside": outcome["inside"] if outcome else None,
                "beats_naive": outcome["beats_naive"] if outcome else None,
            })  # fmt: skip
    return rows


def _registration(path: Path, graded: Path, forecasts: list[object], outcomes: list[object]) -> Registration:
    return Registration(
        path.stem, path, graded,
        cast("tuple[ForecastRecord, ...]", tuple(forecasts)), cast("tuple[OutcomeRecord, ...]", tuple(outcomes)),
    )  # fmt: skip


def register_forecast(
    sweep_dir: str | Path, targets: float | Sequence[float], metrics: Sequence[str] = (), through: str = ""
) -> str:
    """Forecast the best sizes of budgets that are not trained yet, and write them to ``forecasts/N.json``.

    The file also lists the runs that will decide: sizes, seeds and settings as the sweep itself will plan them.

    Args:
      sweep_dir: of a sweep whose runs have all ended.
      targets: FLOPs of the budgets.
      metrics: columns of ``runs.csv``; by default the sweep's metric.
      through: a loss through which each error among the metrics is forecast as well (empty: none).

    Returns:
      A text: the forecasts, their bands, and the command that trains the runs.

    Raises:
      UserError: one of these forecasts is registered already, the sweep has one seed, runs are unfinished, and as
        `scaling.planning.preregistration.preregister_targets`.
    """
    import pandas as pd

    enable_compile_cache()
    root = as_path(sweep_dir)
    config = sweep_config_of(root)
    targets = sorted({float(t) for t in np.atleast_1d(targets)})
    metrics = tuple(metrics) or (config.metric,)
    known = registrations(root)
    _check_new(known, targets, metrics)
    seeds = (*config.seeds, *config.extra_seeds_at_optimum)
    if len(seeds) < 2:
        reason = "the forecast's runs need at least two seeds, for their scatter"
        hint = "run the sweep again with --extra_seeds_at_optimum=1,2"
        raise UserError(field="extra_seeds_at_optimum", value="", reason=reason, hint=hint)
    df = collect_to_fit(root)
    _check_all_finished(df, root)
    measured = pd.read_csv(io.StringIO(read_text(root / "evals.csv")))
    ways: list[tuple[str, Through | None]] = [(metric, None) for metric in metrics]
    if through:
        errors = [metric for metric in metrics if metric.startswith("error")]
        if not errors:
            reason = "explains an error, and none is among the metrics"
            raise UserError(field="--through", value=through, reason=reason, hint="--metrics=error_mean")
        ways += [(metric, Through(through, chance_beside(root, through))) for metric in errors]
    planned = {target: _planned_runs(config, target, seeds) for target in targets}
    forecasts = [
        {**forecast, "runs": planned[forecast["target"]]}
        for metric, way in ways
        for forecast in preregister_targets(
            df, metric, targets, seeds=len(seeds), pictures=pictures_of(measured, config, metric),
            chance=chance_beside(root, metric), through=way,
        )
    ]  # fmt: skip
    name = str(1 + max((int(r.name) for r in known if r.name.isdecimal()), default=0))
    path = root / FOLDER / f"{name}.json"
    logger.info("writing %s", path)
    mkdir(path.parent)
    write_json(path, {"forecasts": forecasts})
    return registered_text(cast("list[ForecastRecord]", forecasts), config, path)


def _check_new(known: list[Registration], targets: list[float], metrics: Sequence[str]) -> None:
    """Raise UserError if a forecast of a metric at a target is registered already."""
    for registration in known:
        for forecast in registration.forecasts:
            near = [t for t in targets if abs(t / forecast["target"] - 1) <= ON_BUDGET]
            if near and forecast["metric"] in metrics:
                reason = f"a forecast of {forecast['metric']} at {near[0]:.4g} FLOPs is registered already"
                raise UserError(field=registration.path, reason=reason, hint="it is made once, before its runs")


def _planned_runs(config: SweepConfig, target: float, seeds: Sequence[int]) -> list[PlannedRun]:
    grown = dataclasses.replace(config, budgets=(target,))
    cells = [cell for cell in plan_of(grown).kept if cell.config.seed == config.base.seed + config.seeds[0]]
    runs = [make_cell(config, cell.size, target, seed) for cell in cells for seed in seeds]
    return [
        {"run_id": c.run_id, "rung": c.size, "params": c.params, "steps": c.config.steps, "seed": c.config.seed,
         "peak_lr": c.config.optim.peak_lr, "batch_size": c.config.batch_size, "flops": c.flops}
        for c in runs
    ]  # fmt: skip


def grade_forecast(sweep_dir: str | Path) -> str:
    """Grade the registered forecasts by the runs trained since; write ``forecasts/N.outcome.json``, ``forecast.png``.

    Forecasts whose runs have not finished are left for a later call.

    Returns:
      A text with the outcome of each forecast.

    Raises:
      UserError: nothing is registered, or no forecast's runs have finished.
    """
    root = as_path(sweep_dir)
    config = sweep_config_of(root)  # a search has no forecast
    known = registrations(root)
    if not known:
        reason = "no forecast is registered"
        raise UserError(field=root, reason=reason, hint="`clip-jax sweep forecast --at=FLOPS` registers one")
    df = collect_to_fit(root)
    texts: list[str] = []
    waiting: list[UserError] = []
    for registration in known:
        outcomes: list[OutcomeRecord] = []
        for forecast in registration.forecasts:
            try:
                outcomes.append(_graded(forecast, df))
                texts.append(outcome_text(outcomes[-1]))
            except UserError as error:
                waiting.append(error)
                texts.append(f"  {forecast['metric']} at {forecast['target']:.4g} FLOPs: not graded, {error}")
        if outcomes:
            former = registration.graded.name == FORMER[1]
            logger.info("writing %s", registration.graded)
            write_json(registration.graded, outcomes[0] if former else {"outcomes": outcomes})
    if len(waiting) == len(texts):
        raise waiting[0]
    redraw_forecast(df, root, root, config.metric)
    return "\n\n".join(texts)


def _graded(forecast: ForecastRecord, df: pd.DataFrame) -> OutcomeRecord:
    """Grade one forecast; runs of its budget that were not registered are told as amendments."""
    graded = grade(forecast, df)
    planned = {run["run_id"] for run in forecast["runs"]}
    near = df[(df["budget"] / forecast["target"] - 1).abs() <= ON_BUDGET]
    graded["amendments"] += [
        f"run {run} (rung {rung:g}, seed {seed}) was not registered"
        for run, rung, seed in near[["run_id", "rung", "seed"]].itertuples(index=False)
        if run not in planned
    ]
    return graded


def _check_all_finished(df: pd.DataFrame, root: Path) -> None:
    """Raise UserError if runs have not ended; those that failed or were cancelled are left out of the law."""
    if unfinished := int((df["state"] == "missing").sum()):
        reason = f"{unfinished} of {len(df)} cells are unfinished"
        hint = "`clip-jax sweep run` trains them, `clip-jax sweep cancel` leaves them out"
        raise UserError(field=root, reason=reason, hint=hint)


def redraw_forecast(table: pd.DataFrame, beside: Path, out: Path, metric: str) -> None:
    """Draw ``forecast.png`` into ``out``: the graded forecasts of a metric, registered beside a table of runs."""
    from clip_jax.scaling.report.figures.files import write_figure
    from clip_jax.scaling.report.figures.forecast import draw_forecast

    pairs = [(f, r.outcome_of(f)) for r in registrations(beside) for f in r.forecasts if f["metric"] == metric]
    graded = [(f, o) for f, o in pairs if o is not None and "through" not in f]
    if graded:
        write_figure(out / "forecast.png", draw_forecast(graded, table))


def pictures_of(measured: pd.DataFrame, config: SweepConfig, metric: str) -> list[tuple[float, int]]:
    """Return (mean error at the largest budget, number of images) of each zero-shot task of a metric.

    Args:
      measured: evaluations, as ``evals.csv``.
      config: names the tasks that the metric excludes.
      metric: an error; a loss has no images.
    """
    controls = {Path(path).name for path in config.base.evals.unscored_tasks}
    measured = measured[(measured["metric"] == "top1") & ~measured["task"].isin(controls)]
    if metric.startswith("error/"):
        measured = measured[measured["task"] == metric.removeprefix("error/")]
    elif metric != "error_mean":
        return []
    top = measured[measured["budget"] == measured["budget"].max()].groupby("task")
    return [
        (1 - float(rows["value"].mean()), int(rows["examples"].iloc[0])) for _, rows in top if (rows["value"] < 1).any()
    ]
