"""What keeps a stage of a sweep going: run directories on one side, the engine's queue on the other, and no state here.

Killed at any moment and started again, it does what remains.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clip_jax.errors import UserError
from clip_jax.interrupts import was_asked
from clip_jax.sweep.launch import submission as files
from clip_jax.sweep.launch.base import Engine, EngineDown, Job

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a job ended; ``reason`` is why it was left out, empty when it finished."""

    job: Job
    reason: str


def reconcile(
    engine: Engine,
    jobs: Sequence[Job],
    max_attempts: int,
    report: Callable[[Outcome], None] = lambda outcome: None,
    echo: Echo = print,
) -> None:
    """Until every job has finished or is left out: look, and hand over what is gone and not done.

    A job is left out after a user's mistake (exit code 2), after ``max_attempts`` submissions without a new checkpoint
    between them, or when it was cancelled. It is taken up again when its ``failure.json`` is removed meanwhile.

    Raises:
      UserError: the engine refused, or never answered.
      KeyboardInterrupt: on SIGTERM or SIGINT, after `Engine.leave`.
    """
    _refuse_other_engine(engine, jobs)
    open_jobs = {job.key: job for job in jobs}
    told: set[str] = set()
    contact = _Contact(echo)
    with _asked_to_stop() as stop:
        while open_jobs:
            with contact:
                for outcome in _look(engine, list(open_jobs.values()), max_attempts, echo):
                    if not outcome.reason:
                        del open_jobs[outcome.job.key]
                    if outcome.job.key not in told:
                        report(outcome)
                    told.add(outcome.job.key)
                told -= {key for key, job in open_jobs.items() if files.left_out(job) is None}
                if all(key in told for key in open_jobs):
                    return
            if stop.wait(engine.poll_s):
                engine.leave()
                raise KeyboardInterrupt


def _look(engine: Engine, jobs: list[Job], max_attempts: int, echo: Echo) -> list[Outcome]:
    """One look at everything; what ended or is left out."""
    live = engine.poll(jobs)  # before the files: what is gone by now has written its last word
    ended, due = [], []
    for job in jobs:
        if (why := files.left_out(job)) is not None and job.key not in live:
            ended.append(Outcome(job, why["reason"]))
        if why is not None or job.key in live:
            continue
        for run_dir in job.run_dirs:
            files.set_aside_corrupt(run_dir, echo)
        if files.finished(job):
            ended.append(Outcome(job, ""))
        elif (verdict := files.verdict(job, max_attempts)) is not None:
            files.leave_out(job, verdict)
            ended.append(Outcome(job, verdict["reason"]))
        else:
            due.append(job)
    room = len(due) if engine.at_once is None else max(0, engine.at_once - len(live))
    submit(engine, due[:room])
    return ended


def submit(engine: Engine, jobs: Sequence[Job]) -> None:
    """Hand jobs to the engine, each noted before."""
    for first in range(0, len(jobs), engine.batch):
        name = f"clip-{uuid.uuid4().hex[:10]}"
        batch = [
            files.note_submission(job, engine.name, name, i) for i, job in enumerate(jobs[first : first + engine.batch])
        ]
        engine.submit(name, batch)
        for job in batch:
            files.note_accepted(job)


def _refuse_other_engine(engine: Engine, jobs: Sequence[Job]) -> None:
    for job in jobs:
        last: dict[str, Any] = {}
        with contextlib.suppress(UserError):  # a corrupt one is dealt with later
            last = files.submission(job.run_dirs[0]) or {}
        if last.get("engine", "") not in ("", engine.name) and not files.finished(job) and not files.left_out(job):
            raise UserError(
                f"{job.run_dirs[0]}: was handed to engine {last['engine']!r}; go on with that one, or `clip-jax sweep "
                f"cancel` and then `retry` before changing the engine"
            )


class _Contact(contextlib.AbstractContextManager):  # type: ignore[type-arg]
    """Passes over an engine that does not answer for a while; one that never did is an error."""

    def __init__(self, echo: Echo) -> None:
        self.echo, self.ever, self.lost = echo, False, False

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            if self.lost:
                self.echo("  the engine answers again")
            self.ever, self.lost = True, False
        if not isinstance(error, EngineDown) or not self.ever:
            return False
        if not self.lost:
            self.echo(f"  {error}; asking again until it answers")
        self.lost = True
        return True


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    stop = threading.Event()
    if was_asked():
        stop.set()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
