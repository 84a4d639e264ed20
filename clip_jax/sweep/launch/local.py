"""Runs on this machine: one subprocess a job, a fixed number of slots, each with its own devices and cores.

All that a next driver needs is in locks, which go with their owner: a child holds those of its runs and of its slot.
For a sweep in a bucket these locks and the logs lie on this machine (`paths.local_scratch`).
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
from typing import IO, Any

from clip_jax.config.sweep import Resources
from clip_jax.distributed.cluster import device_variables, visible_gpus
from clip_jax.errors import UserError
from clip_jax.storage.lease import Lease
from clip_jax.storage.lock import INHERITED, Busy, RunLock, is_held, request_stop
from clip_jax.storage.paths import is_remote, local_scratch, mkdir
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.submission import note_exit
from clip_jax.train.run_directory import SUBMISSION

PROGRAM = (sys.executable, "-m", "clip_jax.cli")
MEMORY_SHARE = 0.9  # of a GPU, over the runs that share it
STOP_S = 120.0  # to save a checkpoint
SLOT_S = 30.0  # for a slot to come free
BUCKET_POLL_S = 3.0  # between two looks at runs in a bucket, where each look is a request


@dataclass
class _Child:
    job: Job
    name: str
    process: subprocess.Popen[bytes]


class Local:
    """An engine of subprocesses. A child that outlives its driver goes on, is waited for and never doubled."""

    name, batch = "local", 1

    def __init__(
        self, sweep_dir: Path, slots: int, resources: Resources | None = None, program: tuple[str, ...] = PROGRAM
    ) -> None:
        """Raises UserError when there are fewer GPUs than the slots were promised."""
        self.dir, self.program = local_scratch(sweep_dir) / "slots", program
        self.poll_s = BUCKET_POLL_S if is_remote(sweep_dir) else 0.2
        self.at_once: int | None = slots
        self.slots = slots
        self.resources = resources or Resources()
        self.children: dict[str, _Child] = {}
        self.environments = [slot_environment(slot, slots, self.resources) for slot in range(slots)]

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Start it in a free slot."""
        for job in jobs:
            self._refuse_where_held(job)
            for run_dir in job.run_dirs:
                mkdir(local_scratch(run_dir) / "logs")
            with contextlib.ExitStack() as held:
                slot, slot_lock = self._free_slot()
                held.enter_context(contextlib.closing(slot_lock))
                locks = [held.enter_context(contextlib.closing(_lock(run_dir))) for run_dir in job.run_dirs]
                try:
                    for lock in locks:
                        lock.acquire()
                except Busy as busy:
                    raise EngineDown(str(busy)) from None
                with job.log.open("ab") as out, on_cores(slot_cores(slot, self.slots)):
                    process = self._spawn(name, job, out, slot, [lock.fileno() for lock in locks], slot_lock.fileno())
                for lock in locks:
                    lock.write_owner(process.pid)
            self.children[job.key] = _Child(job, name, process)

    def _refuse_where_held(self, job: Job) -> None:
        """Raises EngineDown when a run in a bucket is trained, maybe from another machine."""
        for run_dir in job.run_dirs:
            if is_remote(run_dir) and (lease := Lease(run_dir)).is_held():
                owner = lease.owner()
                raise EngineDown(f"{run_dir}: is being trained by process {owner['pid']} on {owner['host']}")

    def _spawn(
        self, name: str, job: Job, out: IO[bytes], slot: int, locks: list[int], slot_lock: int
    ) -> subprocess.Popen[bytes]:
        own = {SUBMISSION: name, INHERITED: ",".join(map(str, locks))}
        return subprocess.Popen(
            (*self.program, *job.arguments),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | self.environments[slot] | own,
            pass_fds=(*locks, slot_lock),
            start_new_session=True,
        )

    def _free_slot(self) -> tuple[int, RunLock]:
        """Waits a while: a run of an earlier driver lets go of its directory just before its process ends."""
        until = time.monotonic() + SLOT_S
        while time.monotonic() < until:
            for slot in range(self.slots):
                (self.dir / str(slot)).mkdir(parents=True, exist_ok=True)
                lock = RunLock(self.dir / str(slot))
                with contextlib.suppress(Busy):
                    lock.acquire()
                    return slot, lock
            time.sleep(0.1)
        raise EngineDown("local: every slot is taken by a run of an earlier driver")

    def poll(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Those whose process lives, ours or an earlier driver's."""
        for key, child in list(self.children.items()):
            if (code := child.process.poll()) is not None:
                del self.children[key]
                for run_dir in child.job.run_dirs:
                    note_exit(run_dir, child.name, code)
        return {job.key: "running" for job in jobs if job.key in self.children or _is_held(job)}

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask them to save and stop, and wait until they have. Raises UserError naming one that this machine cannot
        stop, once all others have been asked."""
        asked, refused = [], []
        for job in jobs:
            try:
                if is_held(local_scratch(job.run_dirs[0])):
                    request_stop(local_scratch(job.run_dirs[0]))
                asked.append(job)
            except UserError as error:
                refused.append(error)
        end = time.monotonic() + STOP_S
        while self.poll(asked) and time.monotonic() < end:
            time.sleep(0.05)
        if refused:
            raise refused[0]

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """A shell line a job."""
        lines = []
        for i, job in enumerate(jobs):
            own = [f"{k}={v}" for k, v in self.environments[i % self.slots].items()]
            lines.append(shlex.join([*own, "clip-jax", *job.arguments]))
        return "\n".join(lines)

    def leave(self) -> None:
        """Ask our children to save and stop, and wait for them."""
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)
        for child in self.children.values():
            child.process.wait()
        self.poll(())


def _lock(run_dir: Path) -> RunLock:
    """What a child holds for as long as it lives. Of a run in a bucket it takes the lease besides."""
    return RunLock(local_scratch(run_dir))


def _is_held(job: Job) -> bool:
    return any(is_held(local_scratch(run_dir)) for run_dir in job.run_dirs)


def slot_environment(slot: int, slots: int, resources: Resources) -> dict[str, str]:
    """What a child sees of the GPUs, where there are any: with several slots, one each unless told otherwise.

    Raises UserError when there are fewer than ``resources`` asks for.
    """
    gpus, each, sharing = visible_gpus(os.environ), resources.devices_per_process, resources.runs_per_device
    needed = -(-slots // sharing) * max(each, 1)
    if (each or sharing > 1) and needed > len(gpus):
        raise UserError(f"slots={slots}: with these resources they need {needed} GPUs, and here are {len(gpus)}")
    if not gpus or (slots == 1 and not each):
        return {}
    first = (slot // sharing) * max(each, 1) % len(gpus)
    found = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + max(each, 1)])}
    found |= device_variables("gpu", each, each)
    if sharing > 1:
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARE / sharing:.3f}"
    return found


def slot_cores(slot: int, slots: int) -> set[int] | None:
    """With several slots, each child keeps to its own share of the cores; None leaves all."""
    if slots == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot % len(cores) :: slots]) if len(cores) >= slots else None


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """What is started meanwhile keeps to these; None leaves all."""
    if cores is None:
        yield
        return
    before: Any = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by the child
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
