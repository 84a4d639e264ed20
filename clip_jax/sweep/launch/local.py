"""The local engine: a fixed number of slots, each with its own devices and cores and a subprocess for its jobs.

All that a successor of the driver needs is in locks, which end with the process that holds them: a child holds those of
its runs and of its slot. For a sweep in a bucket these locks and the logs lie on this machine
(`storage.paths.local_scratch`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_jax import exit_codes
from clip_jax.config.sweep import Resources
from clip_jax.distributed.cluster import MEMORY_SHARE, device_variables, visible_gpus
from clip_jax.errors import UserError
from clip_jax.storage.lease import Lease
from clip_jax.storage.lock import INHERITED, Busy, RunLock, is_held, request_stop
from clip_jax.storage.paths import is_remote, local_scratch, mkdir
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.slot_process import SlotProcess
from clip_jax.sweep.launch.submission import note_exit
from clip_jax.train.run_directory import SUBMISSION

PROGRAM = (sys.executable, "-m", "clip_jax.cli")
STOP_S = 120.0  # wait for cancelled jobs to save a checkpoint
SLOT_S = 30.0  # wait for a slot to become free
BUCKET_POLL_S = 3.0  # between two polls of runs in a bucket, where each poll is a request


@dataclass
class _Child:
    job: Job
    name: str
    slot: int
    process: subprocess.Popen[bytes] | SlotProcess

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        return self.process.process if isinstance(self.process, SlotProcess) else self.process


class Local:
    """Engine of subprocesses.

    A child that outlives its driver continues; the next driver waits for it and starts no second one. With
    ``resources.share_process`` the jobs of a slot are trained one after another in one process.
    """

    name, max_jobs_per_submit = "local", 1

    def __init__(
        self, sweep_dir: Path, slots: int, resources: Resources | None = None, program: tuple[str, ...] = PROGRAM
    ) -> None:
        """Compute the environment of each slot; a ``program`` other than `PROGRAM` gets a process for each job.

        Raises:
          UserError: there are fewer GPUs than the slots need.
        """
        self.dir, self.program = local_scratch(sweep_dir) / "slots", program
        self.poll_s = BUCKET_POLL_S if is_remote(sweep_dir) else 0.2
        self.max_in_flight: int | None = slots
        self.slots = slots
        self.resources = resources or Resources()
        self.children: dict[str, _Child] = {}
        self.idle: dict[int, SlotProcess] = {}  # by slot
        self.environments = [slot_environment(slot, slots, self.resources) for slot in range(slots)]

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Start each job in a free slot."""
        for job in jobs:
            self._check_not_held(job)
            for run_dir in job.run_dirs:
                mkdir(local_scratch(run_dir) / "logs")
            with contextlib.ExitStack() as held:
                locks = [held.enter_context(contextlib.closing(_lock(run_dir))) for run_dir in job.run_dirs]
                try:
                    for lock in locks:
                        lock.acquire()
                except Busy as busy:
                    raise EngineDown(field=busy.field, reason=busy.reason, hint=busy.hint) from None
                child = self._start(name, job, [lock.fileno() for lock in locks])
                for lock in locks:
                    lock.write_owner(child.popen.pid)
            self.children[job.key] = child

    def _check_not_held(self, job: Job) -> None:
        """Raise EngineDown if a run in a bucket is being trained, possibly from another machine."""
        for run_dir in job.run_dirs:
            if is_remote(run_dir) and (lease := Lease(run_dir)).is_held():
                owner = lease.owner()
                raise EngineDown(field=run_dir, reason=f"is being trained by process {owner['pid']} on {owner['host']}")

    def _start(self, name: str, job: Job, locks: list[int]) -> _Child:
        """Start the job in a free slot, in its process if there is one."""
        with job.log.open("ab") as out:
            while self.idle:
                slot, process = self.idle.popitem()
                try:
                    process.give(job.arguments, {SUBMISSION: name}, out.fileno(), locks)
                    return _Child(job, name, slot, process)
                except OSError:  # it ends by itself
                    process.close()
            slot, slot_lock = self._free_slot()
            with contextlib.closing(slot_lock), on_cores(slot_cores(slot, self.slots)):
                if self.program == PROGRAM and self.resources.share_process:
                    process = SlotProcess(self.environments[slot], slot_lock.fileno(), out)
                    process.give(job.arguments, {SUBMISSION: name}, out.fileno(), locks)
                    return _Child(job, name, slot, process)
                launch = {SUBMISSION: name, INHERITED: ",".join(map(str, locks))}
                popen = subprocess.Popen(
                    (*self.program, *job.arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self.environments[slot] | launch,
                    pass_fds=(*locks, slot_lock.fileno()),
                    start_new_session=True,
                )
                return _Child(job, name, slot, popen)

    def _free_slot(self) -> tuple[int, RunLock]:
        """Wait for a free slot: a run of an earlier driver unlocks its directory just before its process ends."""
        until = time.monotonic() + SLOT_S
        while time.monotonic() < until:
            for slot in range(self.slots):
                (self.dir / str(slot)).mkdir(parents=True, exist_ok=True)
                lock = RunLock(self.dir / str(slot))
                with contextlib.suppress(Busy):
                    lock.acquire()
                    return slot, lock
            time.sleep(0.1)
        raise EngineDown(field="slots", value=self.slots, reason="all are used by runs of an earlier driver")

    def poll(self, run_dirs: Sequence[Path]) -> dict[str, str]:
        """Return ``running`` for the runs whose process lives, whether this driver or an earlier one started it."""
        for key, child in list(self.children.items()):
            if (code := child.process.poll()) is not None:
                del self.children[key]
                if code == exit_codes.FINISHED and isinstance(child.process, SlotProcess):
                    self.idle[child.slot] = child.process
                for run_dir in child.job.run_dirs:
                    note_exit(run_dir, child.name, code)
        children = {run_dir for child in self.children.values() for run_dir in child.job.run_dirs}
        return {d.name: "running" for d in run_dirs if d in children or is_held(local_scratch(d))}

    def cancel(self, run_dirs: Sequence[Path]) -> None:
        """Ask the jobs to save and stop, and wait for them.

        Raises:
          UserError: this machine cannot stop one of them; it is raised after all others have been asked.
        """
        asked, refused = [], []
        for run_dir in run_dirs:
            try:
                if is_held(local_scratch(run_dir)):
                    request_stop(local_scratch(run_dir))
                asked.append(run_dir)
            except UserError as error:
                refused.append(error)
        end = time.monotonic() + STOP_S
        while self.poll(asked) and time.monotonic() < end:
            time.sleep(0.05)
        if refused:
            raise refused[0]

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """Return one shell line per job."""
        lines = []
        for i, job in enumerate(jobs):
            variables = [f"{k}={v}" for k, v in self.environments[i % self.slots].items()]
            lines.append(shlex.join([*variables, "clip-jax", *job.arguments]))
        return "\n".join(lines)

    def detach(self) -> None:
        """Ask this driver's children to save and stop, and wait for them and for the processes without a job."""
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.popen.pid, signal.SIGTERM)
        for child in self.children.values():
            if isinstance(child.process, SlotProcess):
                child.process.finish()
            child.popen.wait()
        self.poll(())
        while self.idle:
            self.idle.popitem()[1].close()


def _lock(run_dir: Path) -> RunLock:
    """Return the local lock that a child holds while it lives; for a run in a bucket it takes the lease too."""
    return RunLock(local_scratch(run_dir))


def slot_environment(slot: int, slots: int, resources: Resources) -> dict[str, str]:
    """Return the environment that selects a child's GPUs, if there are any, and the variables of ``resources.env``.

    With several slots each gets one GPU, unless ``resources`` says otherwise.

    Raises:
      UserError: there are fewer GPUs than ``resources`` asks for.
    """
    gpus, each, sharing = visible_gpus(os.environ), resources.devices_per_process, resources.runs_per_device
    needed = -(-slots // sharing) * max(each, 1)
    if (each or sharing > 1) and needed > len(gpus):
        raise UserError(
            field="max_concurrent_runs",
            value=slots,
            reason=f"need {needed} GPUs with these resources, this machine has {len(gpus)}",
        )
    if not gpus or (slots == 1 and not each):
        return resources.variables
    first = (slot // sharing) * max(each, 1) % len(gpus)
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + max(each, 1)])}
    environment |= device_variables("gpu", each, each)
    if sharing > 1:
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARE / sharing:.3f}"
    return environment | resources.variables


def slot_cores(slot: int, slots: int) -> set[int] | None:
    """Return a slot's share of the cores if there are several slots; None for all cores."""
    if slots == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot % len(cores) :: slots]) if len(cores) >= slots else None


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Pin processes started inside the context to these cores; None pins nothing."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by the child
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
