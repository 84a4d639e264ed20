"""Reading a job's hosts, devices and coordinator address from the environment (Slurm, Kubernetes, CUDA).

Importing this module loads no jax.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from clip_jax.errors import ConfigError, UserError

logger = logging.getLogger(__name__)

# Variables by which a launcher tells its processes the devices it requested; `check_devices` compares them with JAX's.
PLATFORM = "CLIP_JAX_PLATFORM"  # gpu | tpu
DEVICES_PER_PROCESS = "CLIP_JAX_DEVICES_PER_PROCESS"
DEVICES = "CLIP_JAX_DEVICES"  # of the whole job
COMPILE_CACHE = "CLIP_JAX_COMPILE_CACHE"  # folder of compiled programs, on a disk or in a bucket
# The variables of a Slurm step that JAX reads; in a batch script without srun some are missing.
_SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND", "SLURM_TRES_BIND")
MEMORY_SHARE = 0.92  # of a GPU's memory, for all runs on it; CUDA, NCCL and cuDNN need the rest
_MEMORY = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")
_NO_GPU = ("", "-1", "none", "void", "NoDevFiles")
_THIS_HOST = ("localhost", "localhost.localdomain", "ip6-localhost")
_ELSEWHERE = "192.0.2.1"  # RFC 5737: assigned to nobody, so packets to it take the default route


def parse_whole_number(name: str, text: str) -> int:
    """Parse the whole number in a variable; raise ConfigError naming the variable."""
    try:
        return int(text)
    except ValueError:
        raise ConfigError(field=name, value=text, reason="must be a whole number") from None


def require_variables(names: tuple[str, ...], environment: Mapping[str, str], condition: str) -> None:
    """Check that all variables are set; raise ConfigError naming the first that is not.

    Args:
      names: the variables.
      environment: where to look for them.
      condition: what makes them necessary, for the message.
    """
    for name in names:
        if name not in environment:
            raise ConfigError(field=name, reason=f"not set, and {condition}: the other processes cannot be found")


def device_variables(platform: str, per_process: int, devices: int) -> dict[str, str]:
    """Return the variables that tell a process the devices its job requested; empty if it requested none."""
    if not per_process:
        return {}
    platform_of = {PLATFORM: platform} if platform else {}
    return {**platform_of, DEVICES_PER_PROCESS: str(per_process), DEVICES: str(devices)}


def compile_cache_of(sweep_dir: Path) -> dict[str, str]:
    """Return the variable by which all jobs of a sweep keep compiled programs in one folder, which outlives them."""
    return {COMPILE_CACHE: str(sweep_dir / ".cache" / "xla")}


def use_gpu_memory() -> None:
    """Let JAX take most of a GPU's memory, of which it takes three quarters by default; nothing if a variable says.

    Call it before anything uses a device.
    """
    if visible_gpus(os.environ) and not any(os.environ.get(name) for name in _MEMORY):
        os.environ[_MEMORY[0]] = f"{MEMORY_SHARE:.2f}"


def check_devices(environment: Mapping[str, str]) -> None:
    """Check that JAX found the devices that the job requested.

    JAX silently falls back to the CPU if a GPU cannot be used, and to fewer devices if some are hidden.

    Raises UserError naming the variable, its value and what JAX found.
    """
    wanted = {name: environment[name] for name in (PLATFORM, DEVICES_PER_PROCESS, DEVICES) if environment.get(name)}
    if not wanted:
        return
    import jax

    actual: dict[str, object] = {
        PLATFORM: jax.default_backend(), DEVICES_PER_PROCESS: jax.local_device_count(), DEVICES: jax.device_count(),
    }  # fmt: skip
    for name, value in wanted.items():
        if str(actual[name]) != value:
            raise UserError(
                field=name, value=value,
                reason=f"the job requested it, but process {jax.process_index()} on {socket.gethostname()} finds "
                f"{actual[name]}",
                hint="check that the accelerator's JAX plugin is installed and its devices are visible",
            )  # fmt: skip


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the ids of the GPUs this process may use; empty if ``CUDA_VISIBLE_DEVICES`` is set and empty."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        numbers = (number.strip() for number in visible.split(","))
        return list(itertools.takewhile(lambda n: n not in _NO_GPU, numbers))  # CUDA stops at the first invalid id
    return [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: ``rack[1-2]n[01-02],x`` -> ``rack1n01``."""
    depth, end = 0, len(nodes)
    for position, letter in enumerate(nodes):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            end = position
            break
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", nodes[:end])


def tasks_per_node(text: str) -> list[int]:
    """Parse Slurm's count of tasks per node: ``2(x3),1`` -> [2, 2, 2, 1]. Raises ConfigError."""
    out: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ConfigError(field="SLURM_STEP_TASKS_PER_NODE", value=text, reason="must have the form 2(x3),1")
        out += [int(match[1])] * int(match[2] or 1)
    return out


def slurm_step(environment: Mapping[str, str]) -> dict[str, object] | None:
    """Return the arguments of ``jax.distributed.initialize`` for a Slurm step of several tasks; None outside of one.

    Raises ConfigError if variables are missing or the node's GPUs do not divide among its tasks.
    """
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    # an interactive shell is a step of one task in a job that may have many
    name = "SLURM_STEP_NUM_TASKS"
    tasks = parse_whole_number(name, environment.get(name, environment.get("SLURM_NTASKS", "1")))
    if tasks == 1:
        return None
    require_variables(_SLURM, environment, "this Slurm step has several tasks")
    numbers = {n: parse_whole_number(n, environment[n]) for n in _SLURM}
    # the port that JAX would choose: in the ephemeral range, from the job id
    port = environment.get("JAX_COORDINATOR_PORT") or numbers["SLURM_JOB_ID"] % 2**12 + 65535 - 2**12 + 1
    address = environment.get("JAX_COORDINATOR_ADDRESS") or f"{first_host(environment['SLURM_STEP_NODELIST'])}:{port}"
    return {
        "coordinator_address": address,
        "num_processes": tasks,
        "process_id": numbers["SLURM_PROCID"],
        "local_device_ids": _local_devices(environment, numbers["SLURM_LOCALID"]),
        "cluster_detection_method": "deactivate",
    }


def _local_devices(environment: Mapping[str, str], local: int) -> list[int] | None:
    """Return the visible GPUs of this task: task k of a node gets the k-th part. None leaves the choice to JAX."""
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    node = parse_whole_number("SLURM_NODEID", environment.get("SLURM_NODEID", "0"))
    each = tasks_per_node(text) if text else [local + 1]
    tasks = max(each[min(node, len(each) - 1)], local + 1)
    share = parse_whole_number(DEVICES_PER_PROCESS, environment.get(DEVICES_PER_PROCESS) or "0")
    visible = len(visible_gpus(environment))
    # with one of these variables, Slurm shows each task only its own GPUs
    bound = any(environment.get(name, "none") not in ("", "none") for name in _BOUND)
    if not visible:
        return list(range(local * max(share, 1), (local + 1) * max(share, 1))) if tasks > 1 else None
    if bound or tasks == 1:
        share = share or visible
        local, tasks = 0, 1
    if not share and visible % tasks:
        raise ConfigError(
            field="SLURM_STEP_TASKS_PER_NODE", value=text,
            reason=f"the {visible} GPUs of this node do not divide among its {tasks} tasks",
            hint=f"request a multiple of {tasks}, or set {DEVICES_PER_PROCESS}",
        )  # fmt: skip
    share = share or visible // tasks
    if tasks * share > visible:
        raise ConfigError(
            field=DEVICES_PER_PROCESS, value=share,
            reason=f"{tasks} tasks of this node need {tasks * share} GPUs, and {visible} are visible",
        )  # fmt: skip
    return list(range(local * share, (local + 1) * share))


def _split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve_addresses(address: str, environment: Mapping[str, str], seconds: float) -> list[str]:
    """Resolve the coordinator's host, retrying for ``seconds``: the name of a new pod may take a while to appear."""
    host, port = _split_address(address)
    end = time.monotonic() + seconds
    while True:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                raise not_reached(address, environment, seconds, error) from None
            time.sleep(0.2)


def not_reached(address: str, environment: Mapping[str, str], seconds: float, error: Exception) -> UserError:
    """Return the UserError for a coordinator that does not resolve or does not accept connections."""
    nodes = environment.get("SLURM_STEP_NODELIST")
    hint = None
    if nodes and not environment.get("JAX_COORDINATOR_ADDRESS"):
        hint = (
            f"{_split_address(address)[0]} was read from SLURM_STEP_NODELIST={nodes}; where nodes know each other by "
            f"other names, set JAX_COORDINATOR_ADDRESS=HOST:PORT"
        )
    return UserError(
        field="distributed.coordinator", value=address, reason=f"not reached in {seconds:.0f} s ({error})", hint=hint
    )


def outbound_address(host: str) -> str:
    """Return this host's address on the interface that leads to ``host``, a name or an address; empty if none does."""
    with contextlib.suppress(OSError, UnicodeError):
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # a datagram socket: nothing is sent
            address = str(probe.getsockname()[0])
            return "" if ipaddress.ip_address(address.partition("%")[0]).is_loopback else address
    return ""


def _is_local_address(host: str) -> bool:
    with contextlib.suppress(OSError):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return True
    return False


def coordinator_arguments(address: str, process: int, environment: Mapping[str, str], seconds: float) -> dict[str, str]:
    """Return the address that this process connects to and, for process 0, the one address that it listens on.

    JAX's coordinator service has no authentication and by default listens on every interface. If the name resolves to
    the loopback interface (Debian maps a host's own name to 127.0.1.1), other hosts cannot reach it; the address of the
    interface towards them is then used instead, with a note on stderr. ``localhost`` and numeric loopback addresses
    mean that all processes run on one host.

    Args:
      address: host:port of process 0.
      process: index of this process.
      environment: environment variables, Slurm's among them.
      seconds: how long to wait for the name to resolve.

    Returns:
      ``coordinator_address``, and for process 0 also ``coordinator_bind_address``.

    Raises:
      UserError: the name does not resolve, or (on process 0) it is no address of this host.
    """
    host, port = _split_address(address)
    nodes = environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", "1"))
    several = parse_whole_number("SLURM_STEP_NUM_NODES", nodes) > 1 or "JOB_COMPLETION_INDEX" in environment
    candidates = _resolve_addresses(address, environment, seconds)
    loops = [ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in candidates]
    is_loopback_name = host in _THIS_HOST or (host == candidates[0] and loops[0])
    outward = ""
    if all(loops) and (several or not is_loopback_name):
        others = environment.get("SLURM_STEP_NODELIST", "")
        outward = outbound_address(first_host(others.rpartition(",")[2])) if others and process == 0 else ""
        outward = outward or outbound_address(_ELSEWHERE)
        if outward:
            logger.warning(
                "distributed.coordinator=%s: resolves to %s, which other hosts cannot reach; using %s",
                address,
                candidates[0],
                outward,
            )
            candidates = [outward]
    if process != 0:
        return {"coordinator_address": _join_address(outward, port) if outward else address}
    if environment.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return {"coordinator_address": address}
    local = [a for a in candidates if _is_local_address(a)]
    if not local:
        raise UserError(
            field="distributed.coordinator", value=address,
            reason=f"process 0 must run there, and {candidates[0]} is no address of this host ({socket.gethostname()})",
            hint="where it is reached through another host, set JAX_COORDINATOR_BIND_ADDRESS=HOST:PORT",
        )  # fmt: skip
    bound = _join_address(local[0], port)
    return {"coordinator_address": bound, "coordinator_bind_address": bound}
