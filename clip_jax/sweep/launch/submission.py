"""Per-run state files shared by the sweep driver, its successors, and the job; all lie in the run's directory.

``submission.json``: what was submitted to which engine, written before the submission. ``exit.json``: the exit code of
the job, written by the process that observes the exit (the local launcher or the Slurm script). ``failure.json``: why
the run is not tried again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax.errors import UserError
from clip_jax.exit_codes import MISTAKE
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import exists, local_scratch, mkdir, move_tree, remove
from clip_jax.storage.record_fields import check_result
from clip_jax.sweep.launch.base import Job
from clip_jax.train.run_directory import SUBMISSION_FILE, checkpoints_in

EXIT, FAILURE = "exit.json", "failure.json"
CANCELLED = "cancelled"
STATE_FILES = ("result.json", "status.json", SUBMISSION_FILE, EXIT, FAILURE)


def read_submission(run_dir: Path) -> dict[str, Any] | None:
    """Return the run's last submission, or None.

    Raises:
      UserError: the file cannot be read.
    """
    return read_json(run_dir / SUBMISSION_FILE)


def set_aside_corrupt(run_dir: Path, echo: Callable[[str], None], *, whole_result: bool = False) -> None:
    """Rename state files that are not valid JSON or lack fields, and say so; the next attempt writes them again.

    With ``whole_result``, a result that lacks a column of the sweep's table is renamed too.
    """
    for name in STATE_FILES:
        path = run_dir / name
        try:
            values = read_json(path)
            if values is not None and whole_result and name == "result.json":
                check_result(values, path)
        except UserError as error:
            move_tree(path, path.with_name(f"{name}.corrupt"))
            echo(f"  {error}; moved to {name}.corrupt")


def finished(job: Job) -> bool:
    """Return whether every run of the job has a result, or has reached the step at which the job pauses."""
    return all(exists(d / "result.json") or 0 < job.until <= _newest(d) for d in job.run_dirs)


def checkpoint_step(job: Job) -> int:
    """Return the step of the newest checkpoint of the job's runs; 0 if there is none."""
    return max(_newest(run_dir) for run_dir in job.run_dirs)


def _newest(run_dir: Path) -> int:
    return max(checkpoints_in(run_dir), default=0)


def note_submission(job: Job, engine: str, name: str, index: int) -> Job:
    """Record that the job is about to be submitted; return it with the number of the attempt."""
    before = read_submission(job.run_dirs[0]) or {"attempt": 0, "tries": 0, "step": 0, "accepted": True}
    step, counts = checkpoint_step(job), before["accepted"]
    tries = 1 if step > before["step"] else before["tries"] + 1 if counts else max(before["tries"], 1)
    attempt = before["attempt"] + 1 if counts else max(before["attempt"], 1)
    job = dataclasses.replace(job, attempt=attempt)
    for run_dir in job.run_dirs:
        mkdir(local_scratch(run_dir) / "logs")
        remove(run_dir / EXIT)
        values = {"engine": engine, "name": name, "index": index, "attempt": attempt, "tries": tries, "step": step}
        write_json(run_dir / SUBMISSION_FILE, values | {"job": job.key, "accepted": False, "time": time.time()})
    return job


def note_accepted(job: Job) -> None:
    """Record that the engine accepted the job, so that the attempt counts."""
    for run_dir in job.run_dirs:
        write_json(run_dir / SUBMISSION_FILE, (read_submission(run_dir) or {}) | {"accepted": True})


def note_exit(run_dir: Path, name: str, code: int) -> None:
    """Record that the job of submission ``name`` ended with this exit code."""
    write_json(run_dir / EXIT, {"name": name, "code": code})


def exit_code(run_dir: Path, name: str) -> int | None:
    """Return the exit code of this submission's job; None if no process observed it."""
    with contextlib.suppress(UserError):
        values = read_json(run_dir / EXIT)
        if values and values.get("name") == name:
            return int(values["code"])
    return None


def give_up_reason(job: Job, max_attempts: int) -> dict[str, Any] | None:
    """Return {code, reason, log} if an unfinished job that is gone should not be tried again, else None."""
    last = read_submission(job.run_dirs[0])
    if last is None or not last["accepted"]:
        return None
    code = exit_code(job.run_dirs[0], last["name"])
    stuck = last["tries"] >= max_attempts and checkpoint_step(job) <= last["step"]
    if code != MISTAKE and not stuck:
        return None
    return {"code": code, "reason": _reason(job, code, last), "log": f"attempt-{last['attempt']}.log"}


def _reason(job: Job, code: int | None, last: dict[str, Any]) -> str:
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


def mark_failed(job: Job, failure: dict[str, Any]) -> None:
    """Record in each unfinished run of the job why it is not tried again.

    A run of several that recorded its own failure keeps that reason.
    """
    for run_dir in job.run_dirs:
        if not exists(run_dir / "result.json"):
            mkdir(run_dir)
            status: dict[str, Any] = {}
            with contextlib.suppress(UserError):
                status = (read_json(run_dir / "status.json") or {}) if len(job.run_dirs) > 1 else {}
            recorded = {"reason": status["reason"]} if status.get("state") == "failed" else {}
            write_json(run_dir / FAILURE, failure | recorded)


def failure_of(job: Job) -> dict[str, Any] | None:
    """Return why the job is not tried again; None if it may be."""
    for run_dir in job.run_dirs:
        with contextlib.suppress(UserError):  # a corrupt file is set aside before the next attempt
            if (failure := read_json(run_dir / FAILURE)) is not None and not exists(run_dir / "result.json"):
                return failure
    return None


def requeue(job: Job) -> None:
    """Remove the job's failure and reset its attempts, so that any engine may run it."""
    for run_dir in job.run_dirs:
        for name in (FAILURE, EXIT):
            remove(run_dir / name)
        last = None
        with contextlib.suppress(UserError):  # a corrupt file is set aside before the next attempt
            last = read_submission(run_dir)
        if last:
            write_json(run_dir / SUBMISSION_FILE, last | {"engine": "", "tries": 0})
