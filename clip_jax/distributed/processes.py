"""Multi-process JAX: joining the processes of a run, and work that process 0 does alone.

Everything else is ordinary single-program JAX over one global mesh. Importing this module loads no jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import time
from collections import Counter
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
    """Loss of another process of the run; the same command resumes from the last checkpoint."""


VARIABLES = {"coordinator": "CLIP_JAX_COORDINATOR", "processes": "CLIP_JAX_PROCESSES", "process": "CLIP_JAX_PROCESS"}
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _with_environment(settings: DistributedConfig, environment: Mapping[str, str]) -> DistributedConfig:
    """Fill in unset fields from the ``CLIP_JAX_*`` variables; a Kubernetes pod's job index serves as process index."""
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


JoinArguments = dict[str, Any]  # keyword arguments of `jax.distributed.initialize`


def find_processes(settings: DistributedConfig, environment: Mapping[str, str]) -> JoinArguments | None:
    """Return the arguments of ``jax.distributed.initialize``, or None for a single process.

    Sources, in this order: explicit fields or ``CLIP_JAX_*`` variables; a Slurm step of several tasks, each with its
    part of the node's GPUs; the hosts of a TPU slice, or several slices, on GKE, for which JAX detects the rest.

    Raises ConfigError if a required setting is missing.
    """
    merged = _with_environment(settings, environment)
    if merged.coordinator == "auto":
        return {}
    absent = [name for name in VARIABLES if getattr(merged, name) == getattr(DistributedConfig, name)]
    if len(absent) < 3:
        if absent:
            reason = "missing; coordinator, processes and process are set together"
            raise ConfigError(field=f"distributed.{absent[0]}", reason=reason, hint=f"set it or {VARIABLES[absent[0]]}")
        if merged.processes == 1:
            return None
        return {
            "coordinator_address": merged.coordinator,
            "num_processes": merged.processes,
            "process_id": merged.process,
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
    """Initialize ``jax.distributed`` for the duration of a context, which must be entered before devices are used.

    A single process loads no jax here. After an error the process exits at once with the code that ``on_error``
    returns, because waiting for the others, as a normal shutdown does, could take forever. The others exit by
    themselves: at once if it was process 0, otherwise after ``heartbeat_s``.

    Raises UserError if the processes do not connect within ``start_s``, and ConfigError if settings are incomplete.
    """
    arguments = find_processes(settings, os.environ)
    if arguments is None:
        yield
        return
    _join(arguments, settings)
    import jax

    try:
        yield
    except BaseException as error:  # noqa: BLE001  # ends the process
        if is_lost_process(error):
            error = LostProcess(f"lost another process ({str(error).splitlines()[0]})")
        code = on_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    jax.distributed.shutdown()


def is_lost_process(error: BaseException) -> bool:
    """Return whether ``error`` is what a collective operation raises when another process has gone."""
    return type(error).__name__ == "JaxRuntimeError" and any(sign in str(error) for sign in _LOST)


def _wait_for(coordinator: str, seconds: int) -> None:
    """Wait until process 0 accepts connections. JAX would wait silently, even for an unknown host name, and abort."""
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


def _join(arguments: JoinArguments, settings: DistributedConfig) -> None:
    import jax

    if "coordinator_address" in arguments:  # otherwise JAX detects it and listens on every interface
        process = int(arguments["process_id"])
        address = arguments["coordinator_address"]
        arguments = arguments | coordinator_arguments(address, process, os.environ, settings.start_s)
        if process:
            _wait_for(arguments["coordinator_address"], settings.start_s)
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=settings.start_s,
            heartbeat_timeout_seconds=settings.heartbeat_s,
            shutdown_timeout_seconds=settings.heartbeat_s,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(field="distributed", reason=f"the processes cannot connect ({reason})") from error


def run_on_process_zero(action: Callable[[], None]) -> None:
    """Run ``action`` on process 0 while the other processes wait.

    An exception propagates on process 0, and the others raise LostProcess. The job's exit code is then that of
    process 0, or one that says that the command is worth repeating.
    """
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
    """Return process 0's ``value`` on every process."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_processes(value: bool) -> bool:
    """Return whether ``value`` is true on all processes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def sum_over_processes(counts: Mapping[str, int]) -> Counter[str]:
    """Return the sums of all processes' counts; their names must be the same, in the same order, on all."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return Counter(counts)
    values = np.array(list(counts.values()), np.int64).view(np.uint8)  # jax would cut 64 bits to 32
    sums = multihost_utils.process_allgather(values).view(np.int64).sum(0)
    return Counter(dict(zip(counts, sums.tolist(), strict=True)))
