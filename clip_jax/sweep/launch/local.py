"""Runs on this machine: one subprocess a run, a fixed number of slots."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clip_jax.exit_codes import STOPPED
from clip_jax.train.lock import INHERITED, Busy, RunLock
from clip_jax.train.record import write_json

POLL_S = 0.05
RESUMES = 5  # of one job by one driver: what is preempted more often wants a person's look


@dataclass(frozen=True)
class Job:
    """One run: its directory and the command that trains it (and resumes it)."""

    run_dir: Path
    command: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``reason`` is the last line of its log when it failed."""

    job: Job
    code: int
    reason: str
    seconds: float


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    slot: int
    log: Path
    began: float

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end, not by us, and the same command goes on."""
        return self.process.returncode in (STOPPED, -signal.SIGTERM)


def train_command(config_file: Path, run_dir: Path) -> tuple[str, ...]:
    """The command line of one run."""
    return (
        sys.executable, "-m", "clip_jax.cli", "train", f"--config={config_file}", f"--dir={run_dir}", "--quiet",
    )  # fmt: skip


def slot_environment(slot: int, slots: int) -> dict[str, str]:
    """What a child sees: with several slots, one GPU each where there are GPUs."""
    environment = dict(os.environ)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    if slots > 1 and gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment


def slot_cores(slot: int, slots: int) -> set[int] | None:
    """With several slots, each child keeps to its own share of the cores; None leaves all."""
    if slots == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot % len(cores) :: slots]) if len(cores) >= slots else None


@dataclass
class LocalLauncher:
    """Runs jobs in order, ``slots`` at a time. A job that fails is reported and the rest go on; one that was stopped
    from outside (`exit_codes.STOPPED`) is started again, ``RESUMES`` times at most.

    A lock on the run directory is held by the child itself, so a child that outlives its driver is waited for
    and never doubled. When the driver is asked to stop, its children are asked too and save a checkpoint.
    """

    slots: int = 1
    running: list[_Running] = field(default_factory=list)
    resumed: dict[Path, int] = field(default_factory=dict)

    def run(self, jobs: list[Job], report: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
        """Every job's outcome, in order of ending."""
        waiting, outcomes = list(jobs), []
        with _children_stop_with_us(self.running):
            while waiting or self.running:
                free = [s for s in range(self.slots) if s not in {r.slot for r in self.running}]
                while waiting and free:
                    started = self._start(waiting[0], free[0])
                    if started is None:  # a child of an earlier driver still holds it
                        waiting.append(waiting.pop(0))
                        break
                    waiting.pop(0)
                    free.pop(0)
                    self.running.append(started)
                time.sleep(POLL_S)
                for child in [r for r in self.running if r.process.poll() is not None]:
                    self.running.remove(child)
                    if child.stopped and self.resumed.get(child.job.run_dir, 0) < RESUMES:
                        self.resumed[child.job.run_dir] = self.resumed.get(child.job.run_dir, 0) + 1
                        waiting.insert(0, child.job)
                        continue
                    outcome = self._end(child)
                    outcomes.append(outcome)
                    report(outcome)
        return outcomes

    def _start(self, job: Job, slot: int) -> _Running | None:
        logs = job.run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(RunLock(job.run_dir)) as lock:
            try:
                lock.acquire()
            except Busy:
                return None
            log = logs / f"attempt-{len(list(logs.glob('attempt-*.log'))) + 1}.log"
            cores = slot_cores(slot, self.slots)
            with log.open("wb") as out:
                process = _spawn(job, out, lock, slot_environment(slot, self.slots), cores)
            lock.sign(process.pid)
        return _Running(job, process, slot, log, time.monotonic())

    def _end(self, child: _Running) -> Outcome:
        code = child.process.returncode
        reason = ""
        if code:
            lines = [x.strip() for x in child.log.read_text(errors="replace").splitlines() if x.strip()]
            name = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            reason = f"{name}: {lines[-1]}" if lines else name
            write_json(child.job.run_dir / "failure.json", {"code": code, "reason": reason, "log": child.log.name})
        else:
            (child.job.run_dir / "failure.json").unlink(missing_ok=True)
        return Outcome(child.job, code, reason, time.monotonic() - child.began)


def _spawn(
    job: Job, out: IO[bytes], lock: RunLock, environment: dict[str, str], cores: set[int] | None
) -> subprocess.Popen[bytes]:
    before: Any = os.sched_getaffinity(0) if cores else None
    try:
        if cores:
            os.sched_setaffinity(0, cores)  # inherited by the child
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment | {INHERITED: str(lock.fileno())},
            pass_fds=(lock.fileno(),),
            start_new_session=True,
        )
    finally:
        if cores:
            os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _children_stop_with_us(running: list[_Running]) -> Iterator[None]:
    def forward(number: int, frame: Any) -> None:
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)
        for child in running:
            child.process.wait()
        raise KeyboardInterrupt

    before = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
