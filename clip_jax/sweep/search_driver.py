"""A hyperparameter search: settings are proposed, trained and compared. All state is in the run directories."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path

from clip_jax import flops
from clip_jax.config.io import run_id, to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_lines, write_json
from clip_jax.storage.paths import absolute, as_path, mkdir, write_text
from clip_jax.sweep.directory import lock_sweep
from clip_jax.sweep.launch.base import Engine, train_job
from clip_jax.sweep.launch.reconcile import reconcile
from clip_jax.sweep.launch.registry import open_engine
from clip_jax.sweep.plan import Cell, SweepPlan
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.search.config import METRIC_KEYS, SearchConfig, apply
from clip_jax.sweep.search.samplers import propose, survivors
from clip_jax.sweep.search.space import Setting, edge_warnings
from clip_jax.sweep.search.trial import Trial
from clip_jax.types import JsonObject

logger = logging.getLogger(__name__)

Echo = Callable[[str], None]


def run_search(
    config: SearchConfig, sweep_dir: str | Path, echo: Echo = logger.info, engine: Engine | None = None
) -> JsonObject:
    """Search, write ``search.csv``, ``search.png`` and ``best.json``, and return the content of ``best.json``.

    Proposals are a function of the config and of earlier results. So a search that was stopped at any moment and is
    called again proposes the same settings and trains what is missing.

    Args:
      config: the search.
      sweep_dir: created if missing, or ``gs://BUCKET/…``.
      echo: receives progress lines.
      engine: where to train; by default the one that the config names.

    Raises:
      UserError: the directory belongs to another config, another driver is at work in it, the engine refused, or no
        setting trained to the end.
    """
    root = absolute(as_path(sweep_dir))
    engine = engine or open_engine(config, root)
    with contextlib.closing(lock_sweep(config, root)):
        trials: list[Trial] = []
        while True:
            observations = [(t.setting, t.mean) for t in trials]
            batch = propose(
                config.dimensions,
                config.method,
                config.trials,
                config.proposal_seed,
                config.trials_per_round,
                observations,
            )
            if not batch:
                break
            trials += _measure(config, root, engine, _trials(config, batch, len(trials)), trials, echo)
        engine.detach()
        return _finish(config, root, trials, echo)


def _trials(config: SearchConfig, batch: list[Setting], first: int) -> list[Trial]:
    trials = []
    for number, setting in enumerate(batch, first):
        base = apply(config.base, setting)
        runs = tuple(dataclasses.replace(base, seed=config.base.seed + seed) for seed in config.seeds)
        trials.append(Trial(number, setting, runs))
    return trials


def _measure(
    config: SearchConfig, root: Path, engine: Engine, batch: list[Trial], before: list[Trial], echo: Echo
) -> list[Trial]:
    """Train a batch of trials stage by stage; after each stage only the best fraction continues."""
    _save_plan(root, [*before, *batch])
    alive = list(range(len(batch)))
    for stage in config.stages:
        _train(config, root, engine, [batch[i] for i in alive], stage, echo)
        for i in alive:
            values = tuple(_value(root / "runs" / run_id(run), config, stage) for run in batch[i].runs)
            batch[i] = dataclasses.replace(batch[i], step=stage, values=values)
            echo(_line(config, batch[i]))
        if stage != config.stages[-1] and config.survivor_fraction < 1:
            kept = survivors([batch[i].mean for i in alive], config.survivor_fraction)
            alive = [alive[k] for k in kept]
            echo(f"  {len(alive)} of {len(batch)} continue from step {stage:,}")
    # a dropped setting keeps its early value for the samplers, which is worse than those of the settings kept
    return batch


def _train(config: SearchConfig, root: Path, engine: Engine, trials: list[Trial], stage: int, echo: Echo) -> None:
    jobs = []
    for run in (run for trial in trials for run in trial.runs):
        run_dir = root / "runs" / run_id(run)
        mkdir(run_dir)
        write_json(run_dir / "request.json", to_dict(run))
        jobs.append(train_job(run_dir, stage if stage < run.steps else 0))
    reconcile(engine, jobs, config.resources.max_attempts, echo=echo)


def _value(run_dir: Path, config: SearchConfig, stage: int) -> float | None:
    if RunState.read(run_dir).given_up:
        return None
    try:
        evals = read_lines(run_dir / "evals.jsonl")
    except UserError as error:
        logger.warning("%s; its trial counts as failed", error)
        return None
    for e in evals:
        if e["step"] == stage and (e["task"], e["metric"]) == METRIC_KEYS[config.metric]:
            return e["value"]
    raise UserError(field="metric", value=config.metric, reason=f"{run_dir} has no such measurement at step {stage}")


def _line(config: SearchConfig, trial: Trial) -> str:
    mean = "failed" if trial.mean is None else f"{trial.mean:.4f}"
    fields = "  ".join(f"{name}={value}" for name, value in trial.setting.items())
    return f"  [{trial.number:3d}] step {trial.step:,} of {config.base.steps:,}  {config.metric} {mean}  {fields}"


def _save_plan(root: Path, trials: list[Trial]) -> None:
    """Write ``plan.json``, from which `sweep status`, `logs`, `cancel` and `retry` know the runs."""
    cells = []
    for run in (run for trial in trials for run in trial.runs):
        spent = flops.training_flops(run.model, run.samples_seen, run.batch_size).total
        cells.append(Cell(0.0, spent, "search", run, spent, 0.0))
    unique = tuple({c.run_id: c for c in cells}.values())
    write_json(root / "plan.json", {"cells": SweepPlan(SweepConfig(name="search"), unique).rows()})


def _finish(config: SearchConfig, root: Path, trials: list[Trial], echo: Echo) -> JsonObject:
    import pandas as pd

    from clip_jax.scaling.report.figures.files import write_figure
    from clip_jax.sweep.search.figure import draw

    rows = [_row(t) for t in trials]
    table = pd.DataFrame(rows).rename(columns={"mean": config.metric})
    write_text(root / "search.csv", table.to_csv(index=False))
    ended = [t for t in trials if t.mean is not None and t.step == config.base.steps]
    if not ended:
        raise UserError(field=root, reason="no setting trained to the end", hint="`clip-jax sweep logs` says why")
    best = min(ended, key=lambda t: (t.mean, t.number))
    warnings = edge_warnings(config.dimensions, best.setting)
    summary: JsonObject = {
        "setting": best.setting,
        "fields": [f"--{name}={_text(value)}" for name, value in best.setting.items()],
        "metric": config.metric,
        "value": best.mean,
        "values": list(best.values),
        "settings": len(trials),
        "to_the_end": len(ended),
        "failed": sum(t.mean is None for t in trials),
        "flops": sum(r["flops"] for r in rows),  # of the whole search
        "warnings": warnings,
    }
    write_json(root / "best.json", summary)
    write_figure(root / "search.png", draw(config, trials, best))
    echo(f"\n  best of {len(trials)} settings: {config.metric} {best.mean:.4f} with {' '.join(summary['fields'])}")
    for line in warnings:
        echo(f"  warning: {line}")
    echo(f"  {summary['flops']:.3g} FLOPs spent; {root / 'search.csv'}, best.json, search.png")
    return summary


def _row(trial: Trial) -> JsonObject:
    run, known = trial.runs[0], [v for v in trial.values if v is not None]
    spent = flops.training_flops(run.model, trial.step * run.batch_size, run.batch_size).total * len(trial.runs)
    sd = statistics.stdev(known) if len(known) > 1 else None
    state = "failed" if trial.mean is None else "ended" if trial.step == run.steps else "dropped"
    ends = {"step": trial.step, "mean": trial.mean, "sd": sd, "seeds": len(trial.runs), "flops": spent, "state": state}
    return {"setting": trial.number, **trial.setting, **ends, "run_ids": " ".join(run_id(r) for r in trial.runs)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
