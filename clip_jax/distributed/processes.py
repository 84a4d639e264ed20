"""One program on many hosts: how a process finds the others, and what the first of them does alone.

Everything else is ordinary single-program JAX over one global mesh. Importing this module loads no jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clip_jax.config import DistributedConfig
from clip_jax.distributed.cluster import (
    coordinator_arguments,
    not_reached,
    parse_whole_number,
    require_variables,
    slurm_step,
)
from clip_jax.errors import ConfigError, UserError


class LostProcess(Exception):
    """Another process of the run is gone; the same command goes on from the last checkpoint."""


VARIABLES = {
    "coordinator": "CLIP_JAX_COORDINATOR",
    "processes": "CLIP_JAX_PROCESSES",
    "process": "CLIP_JAX_PROCESS",
}
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _with_environment(settings: DistributedConfig, environment: Mapping[str, str]) -> DistributedConfig:
    """Fields that were not set, from our own variables; the index of a Kubernetes job's pod will do as the process."""
    coordinator = settings.coordinator or environment.get(VARIABLES["coordinator"], "")
    if coordinator == "auto":
        return dataclasses.replace(settings, coordinator=coordinator)
    processes, process = settings.processes, settings.process
    if not processes:
        processes = parse_whole_number(VARIABLES["processes"], environment.get(VARIABLES["processes"], "0"))
    if process == -1:
        index = environment.get("JOB_COMPLETION_INDEX", "-1") if coordinator else "-1"
        process = parse_whole_number(VARIABLES["process"], environment.get(VARIABLES["process"], index))
    return dataclasses.replace(settings, coordinator=coordinator, processes=processes, process=process)


def find_processes(settings: DistributedConfig, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of ``jax.distributed.initialize``, or None for a process on its own.

    In this order: explicit fields or ``CLIP_JAX_*`` variables; a Slurm step of several tasks, each with its part of the
    node's GPUs; the hosts of a TPU slice, or several slices, on GKE. JAX works out the rest of the latter.

    Raises ConfigError when some of what is needed is missing.
    """
    given = _with_environment(settings, environment)
    if given.coordinator == "auto":
        return {}
    absent = [name for name in VARIABLES if getattr(given, name) == getattr(DistributedConfig, name)]
    if len(absent) < 3:
        if absent:
            raise ConfigError(f"distributed.{absent[0]} (or {VARIABLES[absent[0]]}): missing; all three are needed")
        if given.processes == 1:
            return None
        return {
            "coordinator_address": given.coordinator,
            "num_processes": given.processes,
            "process_id": given.process,
            "cluster_detection_method": "deactivate",
        }
    if (step := slurm_step(environment)) is not None:
        return step
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in hosts:
        require_variables(("TPU_WORKER_ID",), environment, "this TPU slice has several hosts")
        return {}
    if parse_whole_number("MEGASCALE_NUM_SLICES", environment.get("MEGASCALE_NUM_SLICES", "1")) > 1:
        require_variables(
            ("MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"), environment, "there are several TPU slices"
        )
        return {}
    return None


@contextlib.contextmanager
def initialized(settings: DistributedConfig, on_error: Callable[[BaseException], int]) -> Iterator[None]:
    """Joined with the other processes, from before anything touches a device. A process on its own loads no jax here.

    After an error this process ends at once, with the code that ``on_error`` gives: to wait for the others, as an
    ordinary end does, could take for ever. They end by themselves: at once when it was process 0, else after
    ``heartbeat_s``.

    Raises UserError when they do not come together within ``start_s``, and ConfigError when settings are incomplete.
    """
    found = find_processes(settings, os.environ)
    if found is None:
        yield
        return
    _join(found, settings)
    import jax

    try:
        yield
    except BaseException as error:  # noqa: BLE001  # it goes no further
        if is_lost_process(error):
            error = LostProcess(f"lost another process ({str(error).splitlines()[0]})")
        code = on_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    jax.distributed.shutdown()


def is_lost_process(error: BaseException) -> bool:
    """Whether it is what a collective operation raises when another process has gone away."""
    return type(error).__name__ == "JaxRuntimeError" and any(sign in str(error) for sign in _LOST)


def _wait_for(coordinator: str, seconds: int) -> None:
    """Until process 0 can be reached. JAX would wait in silence, even for a name that does not exist, and abort."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise not_reached(coordinator, os.environ, seconds, error) from None
            time.sleep(0.2)


def _join(found: dict[str, Any], settings: DistributedConfig) -> None:
    import jax

    if "coordinator_address" in found:  # else JAX finds it out, and listens on every interface
        process = int(found["process_id"])
        found = found | coordinator_arguments(found["coordinator_address"], process, os.environ, settings.start_s)
        if process:
            _wait_for(found["coordinator_address"], settings.start_s)
    try:
        jax.distributed.initialize(
            **found,
            initialization_timeout=settings.start_s,
            heartbeat_timeout_seconds=settings.heartbeat_s,
            shutdown_timeout_seconds=settings.heartbeat_s,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"distributed: the processes did not come together ({reason})") from error


def run_on_process_zero(action: Callable[[], None]) -> None:
    """Process 0 does it while the others wait. What it raises is raised there; the others raise LostProcess, so
    that the job's exit code is that of process 0 or says that the command is worth repeating."""
    import jax

    done = False
    try:
        if jax.process_index() == 0:
            action()
        done = True
    finally:
        done = broadcast_from_process_zero(done)
    if not done:
        raise LostProcess("lost process 0, whose own message says why")


def broadcast_from_process_zero(value: bool) -> bool:
    """What process 0 thinks, on every process."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_processes(value: bool) -> bool:
    """Whether it holds on all processes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(value))))
