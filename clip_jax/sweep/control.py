"""A sweep from outside, whether a driver is at work or not: its engine, its logs; runs left out and taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.storage.paths import absolute, is_remote, local_scratch
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.directory import config_in
from clip_jax.sweep.launch.base import Engine, Job
from clip_jax.sweep.launch.registry import open_engine
from clip_jax.sweep.launch.submission import CANCELLED, finished, leave_out, left_out, submission, take_up
from clip_jax.sweep.search.config import SearchConfig


def config_of(sweep_dir: Path) -> SweepConfig | SearchConfig:
    """The config of a sweep or search that was started. Raises UserError when there is none."""
    cells_of(sweep_dir)
    config = config_in(sweep_dir)
    if config is None:
        raise UserError(f"{sweep_dir}: has a plan but no sweep.json; start it again with `clip-jax sweep run`")
    return config


def sweep_config_of(sweep_dir: Path) -> SweepConfig:
    """`config_of` a sweep. Raises UserError for a search too."""
    config = config_of(sweep_dir)
    if not isinstance(config, SweepConfig):
        raise UserError(f"{sweep_dir}: holds a search, which has no law")
    return config


def engine_of(sweep_dir: Path) -> Engine:
    """The engine that it runs on."""
    return open_engine(config_of(sweep_dir), absolute(sweep_dir))


def jobs_named(sweep_dir: Path, runs: Sequence[str]) -> list[Job]:
    """The runs whose ids begin so; all without any. Raises UserError when a name fits none, or several."""
    ids = [cell["run_id"] for cell in cells_of(sweep_dir)]
    chosen = []
    for name in runs:
        fitting = [i for i in ids if i.startswith(name)]
        if len(fitting) != 1:
            raise UserError(f"{name}: fits {len(fitting)} runs of {sweep_dir}; `clip-jax sweep status` lists them")
        chosen += fitting
    return [Job((absolute(sweep_dir / "runs" / i),), ()) for i in (chosen if runs else ids)]


def cancel(sweep_dir: Path, runs: Sequence[str]) -> str:
    """Stop these runs (all that are not finished without any) and leave them out until `retry`."""
    jobs = [job for job in jobs_named(sweep_dir, runs) if not finished(job)]
    for job in jobs:
        leave_out(job, {"code": None, "reason": CANCELLED, "log": None})
    engine_of(sweep_dir).cancel(jobs)
    return f"{len(jobs)} runs cancelled; `clip-jax sweep retry` takes them up again"


def retry(sweep_dir: Path, runs: Sequence[str]) -> str:
    """Take up again what failed or was cancelled (all of it without any)."""
    jobs = [job for job in jobs_named(sweep_dir, runs) if left_out(job)]
    for job in jobs:
        take_up(job)
    return f"{len(jobs)} runs taken up; the driver hands them over, or `clip-jax sweep run` where none is at work"


def log_of(sweep_dir: Path, run: str) -> str:
    """What its newest attempt said. Raises UserError when there was none."""
    (job,) = jobs_named(sweep_dir, [run])
    last = submission(job.run_dirs[0])
    folders = {job.key, (last or {}).get("job", job.key)}  # a family's log lies with its first run
    here = local_scratch(sweep_dir) / "runs"
    found = (log for name in folders for log in (here / name / "logs").glob("attempt-*.log"))
    logs = sorted(found, key=lambda p: p.stat().st_mtime)
    if logs:
        return f"{logs[-1]}:\n{logs[-1].read_text(errors='replace')}"
    if last and last["engine"] == "jobset":
        from clip_jax.sweep.launch.jobset import JobSets

        engine = engine_of(sweep_dir)
        assert isinstance(engine, JobSets)
        return engine.log(job)
    elsewhere = f" on this machine, in {job.log.parent}" if is_remote(sweep_dir) else ""
    raise UserError(f"{job.run_dirs[0]}: has no log yet{elsewhere}")
