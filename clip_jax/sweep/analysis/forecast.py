"""A sweep's preregistered forecast of an untrained budget, and its grading (`scaling.planning.preregistration`)."""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from clip_jax.config.sweep import SweepConfig
from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.errors import UserError
from clip_jax.scaling.analysis.averaging import NO_BREAK
from clip_jax.scaling.data.chance import chance_beside
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord
from clip_jax.scaling.planning.preregistration import ON_BUDGET, grade, preregister
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import as_path, exists, read_text
from clip_jax.sweep.collect import collect_to_fit
from clip_jax.sweep.control import sweep_config_of
from clip_jax.sweep.plan import make_cell, plan_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REGISTERED, GRADED = "forecast.json", "outcome.json"


def register_forecast(sweep_dir: str | Path, target: float) -> str:
    """Forecast the best size's error at ``target`` FLOPs from the finished runs, and write it to ``forecast.json``.

    The file also lists the runs that will decide: sizes, seeds and settings as the sweep itself will plan them.

    Returns:
      A text: the forecast, its band, and the command that trains its runs.

    Raises:
      UserError: a forecast is registered already, runs are unfinished, and as
        `scaling.planning.preregistration.preregister`.
    """
    import pandas as pd

    enable_compile_cache()
    root = as_path(sweep_dir)
    config = sweep_config_of(root)
    path = root / REGISTERED
    if exists(path):
        raise UserError(field=path, reason="a forecast is registered already, and is made once, before its runs")
    df = collect_to_fit(root)
    _check_all_finished(df, root)
    seeds = (*config.seeds, *config.extra_seeds_at_optimum)
    grown = dataclasses.replace(config, budgets=(target,))
    cells = [cell for cell in plan_of(grown).kept if cell.config.seed == config.base.seed + config.seeds[0]]
    runs = [make_cell(config, cell.size, target, seed) for cell in cells for seed in seeds]
    registered = preregister(
        df, config.metric, target, seeds=len(seeds),
        pictures=pictures_of(pd.read_csv(io.StringIO(read_text(root / "evals.csv"))), config),
        chance=chance_beside(root, config.metric),
    )  # fmt: skip
    registered["runs"] = [
        {"run_id": c.run_id, "rung": c.size, "params": c.params, "steps": c.config.steps, "seed": c.config.seed,
         "peak_lr": c.config.optim.peak_lr, "batch_size": c.config.batch_size, "flops": c.flops}
        for c in runs
    ]  # fmt: skip
    logger.info("writing %s", path)
    write_json(path, registered)
    return _text(registered, config, path)


def grade_forecast(sweep_dir: str | Path) -> str:
    """Grade the registered forecast by the runs trained since; write ``outcome.json`` and ``forecast.png``.

    Raises:
      UserError: nothing is registered, or runs of its budget are missing.
    """
    from clip_jax.scaling.report.figures.files import write_figure
    from clip_jax.scaling.report.figures.forecast import draw_forecast

    root = as_path(sweep_dir)
    sweep_config_of(root)  # a search has no forecast
    registered = cast("ForecastRecord | None", read_json(root / REGISTERED))
    if registered is None:
        reason = "no forecast is registered"
        raise UserError(field=root, reason=reason, hint="`clip-jax sweep forecast --at=FLOPS` registers one")
    df = collect_to_fit(root)
    graded = grade(registered, df)
    planned = {run["run_id"] for run in registered["runs"]}
    near = df[(df["budget"] / registered["target"] - 1).abs() <= ON_BUDGET]
    graded["amendments"] += [
        f"run {run} (rung {rung:g}, seed {seed}) was not registered"
        for run, rung, seed in near[["run_id", "rung", "seed"]].itertuples(index=False)
        if run not in planned
    ]
    logger.info("writing %s", root / GRADED)
    write_json(root / GRADED, graded)
    write_figure(root / "forecast.png", draw_forecast(registered, graded, df))
    return _verdict(graded)


def _check_all_finished(df: pd.DataFrame, root: Path) -> None:
    """Raise UserError if runs have not ended; those that failed or were cancelled are left out of the law."""
    if unfinished := int((df["state"] == "missing").sum()):
        reason = f"{unfinished} of {len(df)} cells are unfinished"
        hint = "`clip-jax sweep run` trains them, `clip-jax sweep cancel` leaves them out"
        raise UserError(field=root, reason=reason, hint=hint)


def redraw_forecast(table: pd.DataFrame, beside: Path, out: Path) -> None:
    """Draw ``forecast.png`` into ``out`` if a registered forecast and its grading lie beside a table of runs."""
    from clip_jax.scaling.report.figures.files import write_figure
    from clip_jax.scaling.report.figures.forecast import draw_forecast

    registered = cast("ForecastRecord | None", read_json(beside / REGISTERED))
    graded = cast("OutcomeRecord | None", read_json(beside / GRADED))
    if registered is not None and graded is not None:
        write_figure(out / "forecast.png", draw_forecast(registered, graded, table))


def pictures_of(measured: pd.DataFrame, config: SweepConfig) -> list[tuple[float, int]]:
    """Return (mean error at the largest budget, number of images) of each zero-shot task of the metric.

    Args:
      measured: evaluations, as ``evals.csv``.
      config: names the metric and the tasks that it excludes. A loss has no images.
    """
    controls = {Path(path).name for path in config.base.evals.unscored_tasks}
    measured = measured[(measured["metric"] == "top1") & ~measured["task"].isin(controls)]
    if config.metric.startswith("error/"):
        measured = measured[measured["task"] == config.metric.removeprefix("error/")]
    elif config.metric != "error_mean":
        return []
    top = measured[measured["budget"] == measured["budget"].max()].groupby("task")
    return [
        (1 - float(rows["value"].mean()), int(rows["examples"].iloc[0])) for _, rows in top if (rows["value"] < 1).any()
    ]


def _text(registered: ForecastRecord, config: SweepConfig, path: Path) -> str:
    r, noise = registered, registered["noise"]
    budgets = sorted({*config.budgets, r["target"]})
    rehearsed = [row["inside"] for row in r["rehearsals"]]
    lines = [
        f"  {r['metric']} at {r['target']:.4g} FLOPs, {r['rule']}, mean of {noise['seeds']} seeds",
        f"  {r['form']}: {r['predicted']:.4f}, 95 % band {_band(r['mean'])}; one run {_band(r['run'])}",
        f"  on as many new pictures: {_band(r['mean_new_pictures'])}",
        f"  the guess to beat, same as the last budget: {r['naive']:.4f}",
        f"  rehearsed at {len(rehearsed)} earlier budgets: {sum(rehearsed)} inside their bands",
        f"  scatter: seeds {noise['seed_sd']:.2%}, pictures {r['picture_sd']['same']:.2%} of the error "
        f"({r['picture_sd']['new']:.2%} on new ones)",
        *(
            f"  {o['form']}, weight {o['weight']:.2f}: {o['predicted']:.4f} {_band([o['low'], o['high']])}"
            for o in r["forms"]
        ),
        *(f"  note: {w}" for w in r.get("warnings", [])),
        f"  the curves' bands of all forms together: {_band([*r['union']])}; {NO_BREAK}",
        f"  {path}: commit it, then train with --budgets='{budgets}'",
    ]
    return "\n".join(lines)


def _verdict(graded: OutcomeRecord) -> str:
    g = graded
    lines = [
        f"  {g['metric']} at {g['flops']:.4g} FLOPs: measured {g['measured']:.4f}, forecast {g['predicted']:.4f} "
        f"{_band(g['mean'])}: {'inside' if g['inside'] else 'OUTSIDE'} the band",
        f"  same as the last budget would have said {g['naive']:.4f}: {'beaten' if g['beats_naive'] else 'NOT beaten'}",
        "  seeds: " + ", ".join(f"{s['measured']:.4f}{'' if s['inside'] else ' (outside)'}" for s in g["seeds"]),
        f"  {g['sizes']} sizes, the best {'between the others' if g['bracketed'] else 'on the EDGE'}",
    ]
    return "\n".join(lines + [f"  not as registered: {a}" for a in g["amendments"] or ["nothing"]])


def _band(ends: list[float | None]) -> str:
    low, high = ("open" if e is None else f"{e:.4f}" for e in ends)
    return f"[{low}, {high}]"
