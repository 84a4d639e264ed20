"""The files by which a driver, the one after it, and an engine's job know of each other; all in the run's directory.

``submission.json``: what was handed to which engine, written before it is. ``exit.json``: the exit code of the job,
written by whoever saw it end. ``failure.json``: why the run is left out.
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
OURS = ("result.json", "status.json", SUBMISSION_FILE, EXIT, FAILURE)


def submission(run_dir: Path) -> dict[str, Any] | None:
    """The last one, or None. Raises UserError when it cannot be read."""
    return read_json(run_dir / SUBMISSION_FILE)


def set_aside_corrupt(run_dir: Path, echo: Callable[[str], None], *, whole_result: bool = False) -> None:
    """Move records that are no JSON, or of another shape, out of the way, and say so: the next attempt writes them
    again. With ``whole_result`` a result that lacks what the table of its sweep needs goes too."""
    for name in OURS:
        path = run_dir / name
        try:
            found = read_json(path)
            if found is not None and whole_result and name == "result.json":
                check_result(found, path)
        except UserError as error:
            move_tree(path, path.with_name(f"{name}.corrupt"))
            echo(f"  {error}; moved to {name}.corrupt")


def finished(job: Job) -> bool:
    """Whether all its runs have their result, or have come as far as it was to bring them."""
    return all(exists(d / "result.json") or 0 < job.until <= _newest(d) for d in job.run_dirs)


def checkpoint_step(job: Job) -> int:
    """The newest checkpoint of its runs; 0 without any."""
    return max(_newest(run_dir) for run_dir in job.run_dirs)


def _newest(run_dir: Path) -> int:
    return max(checkpoints_in(run_dir), default=0)


def note_submission(job: Job, engine: str, name: str, index: int) -> Job:
    """Write down that it is about to be handed over; returns it with the number of the attempt."""
    before = submission(job.run_dirs[0]) or {"attempt": 0, "tries": 0, "step": 0, "accepted": True}
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
    """The engine has it: the attempt counts."""
    for run_dir in job.run_dirs:
        write_json(run_dir / SUBMISSION_FILE, (submission(run_dir) or {}) | {"accepted": True})


def note_exit(run_dir: Path, name: str, code: int) -> None:
    """The job of submission ``name`` ended with this code."""
    write_json(run_dir / EXIT, {"name": name, "code": code})


def exit_code(run_dir: Path, name: str) -> int | None:
    """How the job of this submission ended; None when nobody saw it."""
    with contextlib.suppress(UserError):
        found = read_json(run_dir / EXIT)
        if found and found.get("name") == name:
            return int(found["code"])
    return None


def verdict(job: Job, max_attempts: int) -> dict[str, Any] | None:
    """Why a job that is gone and not finished should not be tried again: {code, reason, log}; None when it should."""
    last = submission(job.run_dirs[0])
    if last is None or not last["accepted"]:
        return None
    code = exit_code(job.run_dirs[0], last["name"])
    stuck = last["tries"] >= max_attempts and checkpoint_step(job) <= last["step"]
    if code != MISTAKE and not stuck:
        return None
    return {"code": code, "reason": _reason(job, code, last), "log": f"attempt-{last['attempt']}.log"}


def _reason(job: Job, code: int | None, last: dict[str, Any]) -> str:
    if code is None:
        how = "ended without a word"
    elif code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        known = number in {s.value for s in signal.Signals}
        how = f"killed by {signal.Signals(number).name}" if known else f"exit code {code}"
    else:
        how = f"exit code {code}"
    how += f", {last['tries']} times" if last["tries"] > 1 else ""
    said = last_line(Job(job.run_dirs, job.arguments, last["attempt"]).log)
    return f"{how}: {said}" if said else how


def last_line(log: Path) -> str:
    """The last line of a log that says something; what Slurm says of it afterwards does not count."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [x.strip() for x in file.read().decode(errors="replace").splitlines() if x.strip()]
    own = [x for x in lines if not x.startswith(("srun:", "slurmstepd"))]
    return (own or lines or [""])[-1]


def leave_out(job: Job, why: dict[str, Any]) -> None:
    """Say in each of its unfinished runs why it is not tried again: its own reason, if it is one of a family."""
    for run_dir in job.run_dirs:
        if not exists(run_dir / "result.json"):
            mkdir(run_dir)
            status: dict[str, Any] = {}
            with contextlib.suppress(UserError):
                status = (read_json(run_dir / "status.json") or {}) if len(job.run_dirs) > 1 else {}
            own = {"reason": status["reason"]} if status.get("state") == "failed" else {}
            write_json(run_dir / FAILURE, why | own)


def left_out(job: Job) -> dict[str, Any] | None:
    """Why it is not tried again; None when it may be."""
    for run_dir in job.run_dirs:
        with contextlib.suppress(UserError):  # a corrupt one is set aside before the next attempt
            if (why := read_json(run_dir / FAILURE)) is not None and not exists(run_dir / "result.json"):
                return why
    return None


def take_up(job: Job) -> None:
    """Forget that it was left out, count its tries afresh, and let any engine have it."""
    for run_dir in job.run_dirs:
        for name in (FAILURE, EXIT):
            remove(run_dir / name)
        last = None
        with contextlib.suppress(UserError):  # a damaged one is set aside before the next attempt
            last = submission(run_dir)
        if last:
            write_json(run_dir / SUBMISSION_FILE, last | {"engine": "", "tries": 0})
