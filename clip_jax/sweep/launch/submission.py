"""What a sweep's driver decides from the state of its runs (`run_state`), and what it writes into their directories."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clip_jax.errors import UserError
from clip_jax.exit_codes import MISTAKE
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import exists, local_scratch, mkdir, move_tree, remove
from clip_jax.storage.records import Failure, Submission
from clip_jax.sweep.launch.base import Job
from clip_jax.sweep.run_state import EXIT, FAILURE, RunState
from clip_jax.train.run_directory import SUBMISSION_FILE


@dataclass(frozen=True)
class JobState:
    """A job and the state of its runs."""

    job: Job
    runs: tuple[RunState, ...]

    @classmethod
    def read(cls, job: Job) -> JobState:
        """Read the directories of the job's runs."""
        return cls(job, tuple(RunState.read(run_dir) for run_dir in job.run_dirs))

    @property
    def finished(self) -> bool:
        """Whether every run of the job has a result or is at the step at which the job pauses, or its file is made."""
        if self.job.made is not None:
            return exists(self.job.made)
        return all(run.finished or 0 < self.job.until <= run.checkpoint for run in self.runs)

    @property
    def given_up(self) -> Failure | None:
        """The reason why the job is not tried again; None if it may be."""
        return next((run.given_up for run in self.runs if run.given_up), None)

    @property
    def checkpoint(self) -> int:
        """Step of the newest checkpoint of the job's runs; 0 if there is none."""
        return max(run.checkpoint for run in self.runs)

    def verdict(self, max_attempts: int) -> Failure | None:
        """Return why an unfinished job that is gone should not be tried again; None if it should."""
        last, code = self.runs[0].submission, self.runs[0].exit_code
        if last is None or not last["accepted"]:
            return None
        stuck = last["tries"] >= max_attempts and self.checkpoint <= last["step"]
        if code != MISTAKE and not stuck:
            return None
        return {"code": code, "reason": _reason(self.job, code, last), "log": f"attempt-{last['attempt']}.log"}


def set_aside_corrupt(state: RunState, echo: Callable[[str], None]) -> RunState:
    """Rename the state files that are damaged and say so; the next attempt writes them again. Return the new state."""
    for name, error in state.damaged.items():
        move_tree(state.run_dir / name, state.run_dir / f"{name}.corrupt")
        echo(f"  {error}; moved to {name}.corrupt")
    return dataclasses.replace(state, damaged={})


def read_submission(run_dir: Path) -> Submission | None:
    """Return the run's last submission; None if there is none or the file is damaged."""
    try:
        return cast(Submission | None, read_json(run_dir / SUBMISSION_FILE))
    except UserError:  # set aside before the next attempt
        return None


def note_submission(job: Job, engine: str, name: str, index: int) -> Job:
    """Record that the job is about to be submitted; return it with the number of the attempt."""
    state = JobState.read(job)
    attempt, tries = 1, 1
    if (before := state.runs[0].submission) is not None:
        counts = before["accepted"]
        attempt = before["attempt"] + 1 if counts else max(before["attempt"], 1)
        if state.checkpoint <= before["step"]:
            tries = before["tries"] + 1 if counts else max(before["tries"], 1)
    job = dataclasses.replace(job, attempt=attempt)
    submission: Submission = {
        "engine": engine,
        "name": name,
        "index": index,
        "attempt": attempt,
        "tries": tries,
        "step": state.checkpoint,
        "job": job.key,
        "accepted": False,
        "time": time.time(),
    }
    for run_dir in job.run_dirs:
        mkdir(local_scratch(run_dir) / "logs")
        remove(run_dir / EXIT)
        write_json(run_dir / SUBMISSION_FILE, submission)
    return job


def note_accepted(job: Job) -> None:
    """Record that the engine accepted the job, so that the attempt counts."""
    for run_dir in job.run_dirs:
        write_json(run_dir / SUBMISSION_FILE, {**(read_submission(run_dir) or {}), "accepted": True})


def note_exit(run_dir: Path, name: str, code: int) -> None:
    """Record that the job of submission ``name`` ended with this exit code."""
    write_json(run_dir / EXIT, {"name": name, "code": code})


def _reason(job: Job, code: int | None, last: Submission) -> str:
    if code is None:
        how = "ended without an exit code"
    elif code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        known = number in {s.value for s in signal.Signals}
        how = f"killed by {signal.Signals(number).name}" if known else f"exit code {code}"
    else:
        how = f"exit code {code}"
    how += f", {last['tries']} times" if last["tries"] > 1 else ""
    message = last_line(Job(job.run_dirs, job.arguments, last["attempt"]).log)
    return f"{how}: {message}" if message else how


def last_line(log: Path) -> str:
    """Return the last non-empty line of a log, without those that Slurm appends."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [x.strip() for x in file.read().decode(errors="replace").splitlines() if x.strip()]
    from_job = [x for x in lines if not x.startswith(("srun:", "slurmstepd"))]
    return (from_job or lines or [""])[-1]


def mark_failed(runs: Sequence[RunState], failure: Failure) -> None:
    """Record in each unfinished run of a job why it is not tried again.

    A run of several that recorded its own failure keeps that reason.
    """
    for run in runs:
        if not run.finished:
            mkdir(run.run_dir)
            recorded = len(runs) > 1 and run.status.get("state") == "failed"
            reason = (run.status.get("reason") if recorded else None) or failure["reason"]
            write_json(run.run_dir / FAILURE, {**failure, "reason": reason})


def requeue(run_dir: Path) -> None:
    """Remove the run's failure and reset its attempts, so that any engine may train it."""
    for name in (FAILURE, EXIT):
        remove(run_dir / name)
    if last := read_submission(run_dir):
        write_json(run_dir / SUBMISSION_FILE, {**last, "engine": "", "tries": 0})
