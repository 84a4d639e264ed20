"""A sweep's preregistered forecasts of untrained budgets, and their grading (`scaling.planning.preregistration`)."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from clip_jax.config.sweep import SweepConfig
from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.errors import UserError, require_columns
from clip_jax.scaling.data.chance import chance_beside
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord, RegisteredRun
from clip_jax.scaling.planning.preregistration import ON_BUDGET, grade, preregister_targets
from clip_jax.scaling.planning.through_loss import Through
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import as_path, mkdir, read_text
from clip_jax.sweep.analysis.forecast_text import outcome_text, registered_text
from clip_jax.sweep.analysis.registrations import FOLDER, FORMER, Registration, registrations
from clip_jax.sweep.collect import collect_to_fit
from clip_jax.sweep.control import sweep_config_of
from clip_jax.sweep.plan import make_cell, plan_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


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
    targets = _distinct([targets] if isinstance(targets, (int, float)) else targets)
    metrics = tuple(dict.fromkeys(metrics)) or (config.metric,)
    known = registrations(root)
    _check_new(known, targets, metrics)
    errors = [metric for metric in metrics if metric.startswith("error")]
    if through.startswith("error"):
        reason, hint = "is an error, and explains none", "--through=val_loss"
        raise UserError(field="--through", value=through, reason=reason, hint=hint)
    if through and not errors:
        reason = "explains an error, and none is among the metrics"
        raise UserError(field="--through", value=through, reason=reason, hint="--metrics=error_mean")
    seeds = (*config.seeds, *config.extra_seeds_at_optimum)
    if len(seeds) < 2:
        reason = "the forecast's runs need at least two seeds, for their scatter"
        hint = "run the sweep again with --extra_seeds_at_optimum=1,2"
        raise UserError(field="extra_seeds_at_optimum", value="", reason=reason, hint=hint)
    df = collect_to_fit(root)
    _check_all_finished(df, root)
    require_columns(df.columns, (*metrics, *([through] if through else ())))
    measured = pd.read_csv(io.StringIO(read_text(root / "evals.csv")))
    ways: list[tuple[str, Through | None]] = [(metric, None) for metric in metrics]
    if through:
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
    budgets = [*config.budgets, *(f["target"] for r in known for f in r.forecasts), *targets]
    return registered_text(cast("list[ForecastRecord]", forecasts), _distinct(budgets), path)


def _distinct(budgets: Iterable[float]) -> list[float]:
    """Return budgets in ascending order; of those that count as one the smallest."""
    kept: list[float] = []
    for budget in sorted(map(float, budgets)):
        if not kept or budget / kept[-1] - 1 > ON_BUDGET:
            kept.append(budget)
    return kept


def _check_new(known: list[Registration], targets: list[float], metrics: Sequence[str]) -> None:
    """Raise UserError if a forecast of a metric at a target is registered already."""
    for registration in known:
        for forecast in registration.forecasts:
            near = [t for t in targets if abs(t / forecast["target"] - 1) <= ON_BUDGET]
            if near and forecast["metric"] in metrics:
                reason = f"a forecast of {forecast['metric']} at {near[0]:.4g} FLOPs is registered already"
                raise UserError(field=registration.path, reason=reason, hint="it is made once, before its runs")


def _planned_runs(config: SweepConfig, target: float, seeds: Sequence[int]) -> list[RegisteredRun]:
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
                if (before := registration.outcome_of(forecast)) is not None:  # its runs are no longer there
                    outcomes.append(before)
                form = f", {forecast['form']}" if "through" in forecast else ""
                texts.append(f"  {forecast['metric']} at {forecast['target']:.4g} FLOPs{form}: not graded, {error}")
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
