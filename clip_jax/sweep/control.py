"""Control of a sweep from outside, with or without a running driver: engine, logs, cancel, retry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.storage.paths import absolute, is_remote, local_scratch
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.directory import read_sweep_config
from clip_jax.sweep.launch.base import Engine
from clip_jax.sweep.launch.registry import open_engine
from clip_jax.sweep.launch.submission import mark_failed, requeue
from clip_jax.sweep.run_state import CANCELLED, RunState
from clip_jax.sweep.search.config import SearchConfig


def config_of(sweep_dir: Path) -> SweepConfig | SearchConfig:
    """Return the config of a sweep or search that was started.

    Raises:
      UserError: the directory holds none.
    """
    cells_of(sweep_dir)
    config = read_sweep_config(sweep_dir)
    if config is None:
        reason = "has a plan but no sweep.json"
        raise UserError(field=sweep_dir, reason=reason, hint="start it again with `clip-jax sweep run`")
    return config


def sweep_config_of(sweep_dir: Path) -> SweepConfig:
    """Return the config of a sweep as `config_of`; raise UserError for a search too."""
    config = config_of(sweep_dir)
    if not isinstance(config, SweepConfig):
        raise UserError(field=sweep_dir, reason="holds a search, which has no law")
    return config


def engine_of(sweep_dir: Path) -> Engine:
    """Return the engine that the sweep runs on."""
    return open_engine(config_of(sweep_dir), absolute(sweep_dir))


def runs_named(sweep_dir: Path, runs: Sequence[str]) -> list[RunState]:
    """Return the state of each run whose id begins with one of these prefixes, or of all runs if none is given.

    Raises:
      UserError: a prefix fits no run, or several.
    """
    ids = [cell["run_id"] for cell in cells_of(sweep_dir)]
    chosen = []
    for name in runs:
        fitting = [i for i in ids if i.startswith(name)]
        if len(fitting) != 1:
            reason = f"must name one run of {sweep_dir}, and names {len(fitting)}"
            raise UserError(field=name, reason=reason, hint="`clip-jax sweep status` lists them")
        chosen += fitting
    return [RunState.read(absolute(sweep_dir / "runs" / i)) for i in (chosen if runs else ids)]


def cancel(sweep_dir: Path, runs: Sequence[str]) -> str:
    """Stop these runs (all unfinished ones if none is given) and exclude them until `retry`; return a summary line."""
    states = [state for state in runs_named(sweep_dir, runs) if not state.finished]
    for state in states:
        mark_failed([state], {"code": None, "reason": CANCELLED, "log": None})
    engine_of(sweep_dir).cancel([state.run_dir for state in states])
    return f"{len(states)} runs cancelled; `clip-jax sweep retry` requeues them"


def retry(sweep_dir: Path, runs: Sequence[str]) -> str:
    """Requeue the failed and cancelled ones among these runs (among all if none is given); return a summary line."""
    states = [state for state in runs_named(sweep_dir, runs) if state.given_up]
    for state in states:
        requeue(state.run_dir)
    return f"{len(states)} runs requeued; the driver submits them, or `clip-jax sweep run` if none is running"


def log_of(sweep_dir: Path, run: str) -> str:
    """Return the log of a run's newest attempt.

    Raises:
      UserError: the run has no log.
    """
    (state,) = runs_named(sweep_dir, [run])
    name, last = state.run_dir.name, state.submission
    folders = {name, last.get("job", name) if last else name}  # runs trained together log into the first one's folder
    runs = local_scratch(sweep_dir) / "runs"
    candidates = (log for folder in folders for log in (runs / folder / "logs").glob("attempt-*.log"))
    logs = sorted(candidates, key=lambda p: p.stat().st_mtime)
    if logs:
        return f"{logs[-1]}:\n{logs[-1].read_text(errors='replace')}"
    if state.engine == "jobset":
        from clip_jax.sweep.launch.jobset import JobSets

        engine = engine_of(sweep_dir)
        assert isinstance(engine, JobSets)
        return engine.log(state.run_dir)
    elsewhere = f" on this machine, in {runs / name / 'logs'}" if is_remote(sweep_dir) else ""
    raise UserError(field=state.run_dir, reason=f"has no log yet{elsewhere}")
