"""The reconciler of one stage of a sweep: it compares run directories with the engine's queue and keeps no state.

Killed at any moment and started again, it does what remains.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from clip_jax.errors import UserError
from clip_jax.interrupts import handled, was_asked
from clip_jax.sweep.launch.base import Engine, EngineDown, Job
from clip_jax.sweep.launch.submission import (
    JobState,
    mark_failed,
    note_accepted,
    note_submission,
    set_aside_corrupt,
)

logger = logging.getLogger(__name__)

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """End of a job; ``reason`` says why it is not tried again, and is empty if it finished."""

    job: Job
    reason: str


def reconcile(
    engine: Engine,
    jobs: Sequence[Job],
    max_attempts: int,
    report: Callable[[Outcome], None] = lambda outcome: None,
    echo: Echo = logger.info,
) -> None:
    """Submit jobs that are neither live nor finished, again and again, until each has finished or failed.

    A job fails after a user's mistake (exit code 2), after ``max_attempts`` submissions without a new checkpoint
    between them, or when it is cancelled. It is tried again if its ``failure.json`` is removed meanwhile.

    Args:
      engine: where the jobs run.
      jobs: the jobs of the stage.
      max_attempts: submissions of a job without progress.
      report: called once for each job that ends.
      echo: receives lines.

    Raises:
      UserError: the engine refused, or never answered.
      KeyboardInterrupt: on SIGTERM or SIGINT, after `Engine.detach`.
    """
    _refuse_other_engine(engine, jobs)
    open_jobs = {job.key: job for job in jobs}
    reported: set[str] = set()
    contact = _Contact(echo)
    with _stop_event() as stop:
        while open_jobs:
            with contact:
                outcomes = _reconcile_once(engine, list(open_jobs.values()), max_attempts, echo)
                for outcome in outcomes:
                    if not outcome.reason:
                        del open_jobs[outcome.job.key]
                    if outcome.job.key not in reported:
                        report(outcome)
                reported = {outcome.job.key for outcome in outcomes}
                if all(key in reported for key in open_jobs):
                    return
            if stop.wait(engine.poll_s):
                engine.detach()
                raise KeyboardInterrupt


def _reconcile_once(engine: Engine, jobs: list[Job], max_attempts: int, echo: Echo) -> list[Outcome]:
    """Compare all jobs with the queue once, submit what is due, and return the jobs that ended."""
    # before the files are read, which a job that is gone by now has finished writing
    states = engine.poll([run_dir for job in jobs for run_dir in job.run_dirs])
    gone = [job for job in jobs if not any(run_dir.name in states for run_dir in job.run_dirs)]
    ended, due = [], []
    for job in gone:
        state = JobState.read(job)
        if (failure := state.given_up) is not None:
            ended.append(Outcome(job, failure["reason"]))
            continue
        state = JobState(job, tuple(set_aside_corrupt(run, echo) for run in state.runs))
        if state.finished:
            ended.append(Outcome(job, ""))
        elif (failure := state.verdict(max_attempts)) is not None:
            mark_failed(state.runs, failure)
            ended.append(Outcome(job, failure["reason"]))
        else:
            due.append(job)
    live = len(jobs) - len(gone)
    room = len(due) if engine.max_in_flight is None else max(0, engine.max_in_flight - live)
    submit(engine, due[:room])
    return ended


def submit(engine: Engine, jobs: Sequence[Job]) -> None:
    """Submit jobs to the engine, each recorded before."""
    for first in range(0, len(jobs), engine.max_jobs_per_submit):
        name = f"clip-{uuid.uuid4().hex[:10]}"
        batch = [
            note_submission(job, engine.name, name, i)
            for i, job in enumerate(jobs[first : first + engine.max_jobs_per_submit])
        ]
        engine.submit(name, batch)
        for job in batch:
            note_accepted(job)


def _refuse_other_engine(engine: Engine, jobs: Sequence[Job]) -> None:
    for job in jobs:
        state = JobState.read(job)
        before = state.runs[0].engine
        if before not in ("", engine.name) and not state.finished and not state.given_up:
            raise UserError(
                field=str(job.run_dirs[0]),
                reason=f"was submitted to engine {before!r}",
                hint="continue with that engine, or `clip-jax sweep cancel` and then `retry` before changing it",
            )


class _Contact(contextlib.AbstractContextManager):  # type: ignore[type-arg]
    """Context manager that tolerates an engine that stops answering, but not one that never answered."""

    def __init__(self, echo: Echo) -> None:
        self.echo, self.ever, self.lost = echo, False, False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
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
def _stop_event() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    if was_asked():
        stop.set()
    with handled(dict.fromkeys((signal.SIGTERM, signal.SIGINT), lambda *_: stop.set())):
        yield stop
