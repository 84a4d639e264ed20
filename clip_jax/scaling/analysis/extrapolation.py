"""Choose a law by its forecasts: fit to the cheap runs, predict the expensive ones, for several cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clip_jax.scaling.analysis.averaging import AveragedForecast
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.data.chance import fitted_rows
from clip_jax.scaling.data.observations import Columns, columns_of
from clip_jax.scaling.data.records import (
    AveragedRecord,
    Comparison,
    CutRecord,
    ForecastCheck,
    FormForecast,
    FormScore,
    HeldOutScore,
    RankedForm,
)
from clip_jax.scaling.fit.loss import LOG_HUBER, Loss
from clip_jax.scaling.fit_law import fit_law, fit_once, min_points_for_asymptote
from clip_jax.scaling.laws import LAWS, Law
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import prediction_interval

AVERAGED = "averaged over forms"

WEIGHTY = 0.05  # weight in the average from which on a form counts as a rival
APART = 0.05  # predictions whose ratio is nearer to 1 do not disagree, however narrow the bands
TIE = 1e-5  # differences of mean |ln(predicted / measured)| below this are ignored
MIN_POINTS_TO_EXTRAPOLATE = 4  # points that a fit needs before it is extrapolated
MAX_SCORED_PREFIXES = 12  # fitted to choose a form
MIN_FORECASTS = 2  # of a form that may win
CUTS = 4  # cuts between fitted and held-out rows
EQUAL_SCORES = 0.5  # laws whose scores differ by less than this share are equally good: a few cuts scatter as much


def forecast_check(
    fitted: Mapping[str, FrontierFit], averaged: AveragedForecast | None, flops: float, measured: float, naive: float
) -> list[ForecastCheck]:
    """Compare forecasts made without the largest budget with its measurement.

    Args:
      fitted: each form, fitted to the points below.
      averaged: the average of these forms.
      flops: FLOPs of the largest budget.
      measured: its measured error.
      naive: the error of the last point below it: the guess "same as before".

    Returns:
      One row per form, the averaged forecast first: {form, flops, predicted, low, high, measured, error (predicted -
      measured), naive, naive_error, beats_naive, verdict, inside, notes}. ``verdict`` is "no forecast" where the band
      is open or wider than the measured error itself.
    """
    rows: list[tuple[str, Interval, list[str]]] = []
    if averaged is not None:
        band = replace(averaged.run_at(flops).interval(), value=averaged.curve_at(flops).median)
        rows.append((AVERAGED, band, [averaged.rule]))
    rows += [(f.fit.law.name, f.run_at(flops), list(f.fit.notes)) for f in fitted.values()]
    return [_check_row(*row, flops, measured, naive) for row in rows]


def _check_row(
    form: str, band: Interval, notes: list[str], flops: float, measured: float, naive: float
) -> ForecastCheck:
    closer = abs(band.value - measured) < abs(naive - measured)
    wide = band.open_low or band.open_high or band.width > measured
    if wide:
        verdict = "no forecast: the band is wider than the remaining error"
    else:
        verdict = "beats the naive guess" if closer else "does not beat the naive guess"
    low, high = band.bounded_ends
    return {
        "form": form, "flops": flops, "predicted": band.value, "measured": measured, "error": band.value - measured,
        "low": low, "high": high, "width": high - low, "inside": measured in band, "naive": naive,
        "naive_error": naive - measured, "beats_naive": bool(closer and not wide), "verdict": verdict, "notes": notes,
    }  # fmt: skip


def extrapolation_scores(
    flops: np.ndarray,
    errors: np.ndarray,
    laws: Sequence[Law] = LAWS,
    *,
    known: Mapping[str, Mapping[str, float]] = {},
    chance: float | None = None,
) -> list[FormScore]:
    """Score how well each form predicts the next budget from those before it: mean |ln(predicted/measured)|.

    Every prefix of at least four budgets counts once (with more than 12, as many evenly chosen ones), but only where it
    has enough points to determine the asymptote: an undetermined asymptote is no test of the form. A form counts as
    tested from two such prefixes on (one, with five budgets), and forms are ranked over the prefixes that tested all of
    these.

    Args:
      flops, errors: [n], by rising FLOPs.
      laws: the simplest first; ties rank in this order.
      known: law key -> parameters known from elsewhere.
      chance: the error of guessing; points above it do not enter the fits of laws without a ceiling.

    Returns:
      Best first: {form, mean_abs_log_error, forecasts}; None and 0 for forms that were not tested, which come last.
      Empty with fewer than five budgets.
    """
    prefixes = np.arange(MIN_POINTS_TO_EXTRAPOLATE, len(flops))
    # a frontier of a large cloud: evenly over its points, the last one included
    if len(prefixes) > MAX_SCORED_PREFIXES:
        prefixes = prefixes[np.unique(np.linspace(0, len(prefixes) - 1, MAX_SCORED_PREFIXES).round().astype(int))]
    misses: dict[str, dict[int, float]] = {law.name: {} for law in laws}
    for law in laws:
        held = known.get(law.key, {})
        fits = fitted_rows(law, errors, chance)
        for m in map(int, prefixes):
            if fits[:m].sum() < max(min_points_for_asymptote(law, held), len(law.parameters) - len(held) + 1):
                continue
            fit = fit_once(law, flops[:m][fits[:m]], errors[:m][fits[:m]], fixed=held)
            misses[law.name][m] = abs(float(np.log(fit.predict(flops[m]) / errors[m])))
    least = min(MIN_FORECASTS, len(flops) - MIN_POINTS_TO_EXTRAPOLATE)
    tested = [set(m) for m in misses.values() if len(m) >= least]
    common = set.intersection(*tested) if tested else set()
    if len(flops) <= MIN_POINTS_TO_EXTRAPOLATE:
        return []
    rows: list[FormScore] = []
    for law in laws:
        scores = [v for m, v in misses[law.name].items() if m in common] if len(misses[law.name]) >= least else []
        score = float(np.mean(scores)) if scores else None
        rows.append({"form": law.name, "mean_abs_log_error": score, "forecasts": len(scores)})
    return sorted(
        rows, key=lambda r: np.inf if r["mean_abs_log_error"] is None else round(r["mean_abs_log_error"] / TIE)
    )


def rolling(
    law: Law,
    columns: Columns,
    y: np.ndarray,
    by: np.ndarray | None = None,
    *,
    cuts: int = CUTS,
    weights: np.ndarray | None = None,
    loss: Loss = LOG_HUBER,
) -> HeldOutScore:
    """Fit the rows below C, predict all rows above, for several C (held-out extrapolation).

    Args:
      law: the form; columns, y: of all rows.
      by: the order of the rows, [n]; by default the law's only column (compute, for a law of size and data).
      cuts: number of C, evenly over the distinct values in their order, each with enough rows below.
      weights: of the rows, [n], in the fits and in the mean errors.
      loss: of the fits.

    Returns:
      {form, score (root mean square of ln(predicted/measured) over all cuts, each weighing the same), bias (mean of
      it: above 0 the law is pessimistic), cuts: [{below, rows_below, rows_above, rms, bias, reach}]}; score is None
      when no cut has enough rows on both sides. ``reach`` is the extrapolation factor: the largest ``by`` over the
      largest among the fitted rows.
    """
    law_columns = columns_of(law, columns)
    y = np.asarray(y, float)
    order = law_columns[law.columns[0]] if by is None else np.asarray(by, float)
    levels = np.unique(order)
    least = max(MIN_POINTS_TO_EXTRAPOLATE, min_points_for_asymptote(law), len(law.parameters) + 1)
    possible = [c for c in levels[1:] if (order < c).sum() >= least and len(np.unique(order[order < c])) >= 3]
    chosen = (
        [possible[i] for i in np.unique(np.linspace(0, len(possible) - 1, cuts).round().astype(int))]
        if possible
        else []
    )
    rows: list[CutRecord] = []
    for cut in chosen:
        below = order < cut
        known = None if weights is None else weights[below] / weights[below].mean()
        fit = fit_law(
            law, {c: v[below] for c, v in law_columns.items()}, y[below], profile=False, weights=known, loss=loss
        )
        off = np.log(np.maximum(fit.predict({c: v[~below] for c, v in law_columns.items()}), 1e-12) / y[~below])
        above = None if weights is None else weights[~below]
        rows.append(
            {
                "below": float(cut), "rows_below": int(below.sum()), "rows_above": int((~below).sum()),
                "rms": float(np.sqrt(np.average(off**2, weights=above))), "bias": float(np.average(off, weights=above)),
                "reach": float(levels[-1] / order[below].max()),
            }
        )  # fmt: skip
    score = float(np.sqrt(np.mean([r["rms"] ** 2 for r in rows]))) if rows else None
    bias = float(np.mean([r["bias"] for r in rows])) if rows else None
    return {"form": law.name, "score": score, "bias": bias, "cuts": rows}


def compare_laws(
    laws: Sequence[Law], columns: Columns, y: np.ndarray, target: Columns, by: np.ndarray | None = None, *,
    weights: np.ndarray | None = None, loss: Loss = LOG_HUBER,
) -> Comparison:  # fmt: skip
    """Rank laws by `rolling`, give each law's prediction at ``target``, and warn where equally good laws disagree
    there.

    Args:
      laws: the forms.
      columns, y, by, weights, loss: as in `rolling`.
      target: one value of each column.

    Returns:
      {ranking: [{form, score, bias, predicted, low, high}], best, warnings: [text]}; laws tie when their scores differ
      by less than half, and disagree when one's prediction lies outside the other's 95 % band and differs by more than
      5 %.
    """
    ranking: list[RankedForm] = []
    for law in laws:
        row = rolling(law, columns, y, by, weights=weights, loss=loss)
        fit = fit_law(law, columns, y, weights=weights, loss=loss)
        band = prediction_interval(fit, target)
        low, high = band.bounded_ends
        ranking.append(
            {
                "form": law.name, "score": row["score"], "bias": row["bias"], "predicted": band.value,
                "low": low, "high": high, "identified": fit.identified, "status": fit.status,
            }
        )  # fmt: skip
    ranking.sort(key=lambda r: np.inf if r["score"] is None else r["score"])
    warnings = disagreements(ranking)
    if ranking[0]["score"] is None:
        warnings.append("too few rows to compare laws by held-out extrapolation")
    return {"ranking": ranking, "best": ranking[0]["form"], "warnings": warnings}


def disagreements(ranking: Sequence[RankedForm]) -> list[str]:
    """Return a sentence for each law that ties with the first of ``ranking`` but disagrees with it at the target.

    Args:
      ranking: {form, score (None: unknown), predicted, low, high}, the best first.
    """
    best, warnings = ranking[0], []
    for other in ranking[1:]:
        if best["score"] is None or other["score"] is None:
            continue
        equal = other["score"] <= best["score"] * (1 + EQUAL_SCORES) + TIE
        if equal and _disagree(best, other):
            warnings.append(
                f"{best['form']} and {other['form']} forecast held-out runs equally well ({best['score']:.4f}, "
                f"{other['score']:.4f}) but disagree at the target: {best['predicted']:.4f}, {other['predicted']:.4f}"
            )
    return warnings


def _disagree(a: RankedForm | FormForecast, b: RankedForm | FormForecast) -> bool:
    """Return whether one of two predictions lies outside the other's band, and they differ by more than `APART`."""
    inside = all(p["low"] <= q["predicted"] <= p["high"] for p, q in ((a, b), (b, a)))
    return not inside and abs(float(np.log(a["predicted"] / b["predicted"]))) > APART


def rival_forms(forecast: AveragedRecord) -> list[str]:
    """Report the forms that are consistent with the data but disagree at the target.

    Args:
      forecast: of `averaging.AveragedForecast.forecast`.

    Returns:
      At most one sentence, about the two forms of sufficient weight that lie furthest apart: each outside the other's
      95 % band and more than 5 % from it.
    """
    weighty = sorted((f for f in forecast["forms"] if f["weight"] >= WEIGHTY), key=lambda f: f["predicted"])
    if len(weighty) < 2:
        return []
    low, high = weighty[0], weighty[-1]
    if not _disagree(low, high):
        return []
    return [
        f"{low['form']} (weight {low['weight']:.2f}) and {high['form']} ({high['weight']:.2f}) both fit the data but "
        f"disagree at the target: {low['predicted']:.4f}, {high['predicted']:.4f}"
    ]
