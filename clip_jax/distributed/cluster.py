"""What the environment says of a job: which hosts and devices are its own, and where its first process listens.

Importing this module loads no jax.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from clip_jax.errors import ConfigError, UserError

# what a launcher asked for, told to each process that it starts; `check_devices` holds it against what is there
PLATFORM = "CLIP_JAX_PLATFORM"  # gpu | tpu
DEVICES_PER_PROCESS = "CLIP_JAX_DEVICES_PER_PROCESS"
DEVICES = "CLIP_JAX_DEVICES"  # of the whole job
# what JAX reads of a Slurm step; outside of one (a batch script without srun) some are missing
_SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND", "SLURM_TRES_BIND")
_NO_GPU = ("", "-1", "none", "void", "NoDevFiles")
_THIS_HOST = ("localhost", "localhost.localdomain", "ip6-localhost")
_ELSEWHERE = "192.0.2.1"  # RFC 5737: nobody's; where the default route leads


def parse_whole_number(name: str, text: str) -> int:
    """The whole number in a variable. Raises ConfigError naming it."""
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r}: must be a whole number", field=name, value=text) from None


def require_variables(names: tuple[str, ...], environment: Mapping[str, str], why: str) -> None:
    """Raises ConfigError naming the first variable that is not set."""
    for name in names:
        if name not in environment:
            raise ConfigError(f"{name}: {why} but this variable is not set, so the others cannot be found", field=name)


def device_variables(platform: str, per_process: int, devices: int) -> dict[str, str]:
    """The variables that tell a process which devices its job asked for; none where it asked for none."""
    if not per_process:
        return {}
    platform_of = {PLATFORM: platform} if platform else {}
    return {**platform_of, DEVICES_PER_PROCESS: str(per_process), DEVICES: str(devices)}


def check_devices(environment: Mapping[str, str]) -> None:
    """Hold the devices that JAX found against those that the job asked for.

    JAX goes on without a word on the CPU where a GPU cannot be used, and on fewer devices where some are hidden.

    Raises UserError naming the variable, its value and what is there.
    """
    wanted = {name: environment[name] for name in (PLATFORM, DEVICES_PER_PROCESS, DEVICES) if environment.get(name)}
    if not wanted:
        return
    import jax

    found: dict[str, object] = {
        PLATFORM: jax.default_backend(), DEVICES_PER_PROCESS: jax.local_device_count(), DEVICES: jax.device_count(),
    }  # fmt: skip
    for name, value in wanted.items():
        if str(found[name]) != value:
            raise UserError(
                field=name, value=value,
                reason=f"the job asked for it, and process {jax.process_index()} on {socket.gethostname()} finds "
                f"{found[name]}",
                hint="is the plugin of the accelerator installed, and are its devices visible to this process?",
            )  # fmt: skip


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The numbers of those that this process may use; none where ``CUDA_VISIBLE_DEVICES`` is set and empty."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        numbers = (number.strip() for number in visible.split(","))
        return list(itertools.takewhile(lambda n: n not in _NO_GPU, numbers))  # CUDA stops at the first that is none
    return [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def first_host(nodes: str) -> str:
    """The first of a Slurm node list: ``rack[1-2]n[01-02],x`` -> ``rack1n01``."""
    depth, end = 0, len(nodes)
    for place, letter in enumerate(nodes):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            end = place
            break
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", nodes[:end])


def tasks_per_node(text: str) -> list[int]:
    """Slurm's notation, node by node: ``2(x3),1`` -> [2, 2, 2, 1]. Raises ConfigError."""
    out: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={text!r}: must be like 2(x3),1", value=text)
        out += [int(found[1])] * int(found[2] or 1)
    return out


def slurm_step(environment: Mapping[str, str]) -> dict[str, object] | None:
    """The arguments of ``jax.distributed.initialize`` for a step of several tasks; None outside of one.

    Raises ConfigError when variables are missing or GPUs do not divide among the tasks of this node.
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
    # as JAX chooses it: in the ephemeral range, by the job's number
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
    """Which of the visible GPUs are this task's: task k of its node has the k-th part. None leaves it to JAX."""
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    node = parse_whole_number("SLURM_NODEID", environment.get("SLURM_NODEID", "0"))
    each = tasks_per_node(text) if text else [local + 1]
    tasks = max(each[min(node, len(each) - 1)], local + 1)
    share = parse_whole_number(DEVICES_PER_PROCESS, environment.get(DEVICES_PER_PROCESS) or "0")
    visible = len(visible_gpus(environment))
    bound = any(environment.get(name, "none") not in ("", "none") for name in _BOUND)  # each task sees its own alone
    if not visible:
        return list(range(local * max(share, 1), (local + 1) * max(share, 1))) if tasks > 1 else None
    if bound or tasks == 1:
        share = share or visible
        local, tasks = 0, 1
    if not share and visible % tasks:
        raise ConfigError(
            field="SLURM_STEP_TASKS_PER_NODE", value=text,
            reason=f"the {visible} GPUs of this node do not divide among its {tasks} tasks",
            hint=f"ask for a multiple of {tasks}, or set {DEVICES_PER_PROCESS}",
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
    """What the host of the coordinator resolves to; tried again for a while, as a new pod's name takes its time."""
    host, port = _split_address(address)
    end = time.monotonic() + seconds
    while True:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                raise not_reached(address, environment, seconds, error) from None
            time.sleep(0.2)


def not_reached(address: str, environment: Mapping[str, str], seconds: float, error: Exception) -> UserError:
    """The one line for a coordinator that does not resolve or answer."""
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


def _outbound_address(host: str) -> str:
    """The address of this host from which packets to another one leave; empty where there is none."""
    with contextlib.suppress(OSError, UnicodeError):
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # of datagrams: nothing is sent
            found = str(probe.getsockname()[0])
            return "" if ipaddress.ip_address(found.partition("%")[0]).is_loopback else found
    return ""


def _is_local_address(host: str) -> bool:
    with contextlib.suppress(OSError):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return True
    return False


def coordinator_arguments(address: str, process: int, environment: Mapping[str, str], seconds: float) -> dict[str, str]:
    """Where process 0 listens, and this process connects to: the address that was given, and no other of its host.

    JAX's service has no authentication and would listen on every interface. A name that resolves to the loopback
    interface (Debian gives a host's own name 127.0.1.1) cannot be reached by other hosts: then the interface towards
    them is taken, and said on stderr. ``localhost`` and loopback numbers mean processes of one host.

    Args:
      address: host:port of process 0.
      process: which one this is.
      environment: of Slurm's variables.
      seconds: to wait for the name to resolve.

    Returns:
      ``coordinator_address``, and for process 0 ``coordinator_bind_address``.

    Raises:
      UserError: it does not resolve, or (process 0) is no address of this host.
    """
    host, port = _split_address(address)
    nodes = environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", "1"))
    several = parse_whole_number("SLURM_STEP_NUM_NODES", nodes) > 1 or "JOB_COMPLETION_INDEX" in environment
    found = _resolve_addresses(address, environment, seconds)
    loops = [ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in found]
    named_so = host in _THIS_HOST or (host == found[0] and loops[0])
    outward = ""
    if all(loops) and (several or not named_so):
        others = environment.get("SLURM_STEP_NODELIST", "")
        outward = _outbound_address(first_host(others.rpartition(",")[2])) if others and process == 0 else ""
        outward = outward or _outbound_address(_ELSEWHERE)
        if outward:
            print(
                f"clip-jax: distributed.coordinator={address}: resolves to {found[0]}, which other hosts cannot reach; "
                f"{outward} is taken",
                file=sys.stderr,
            )
            found = [outward]
    if process != 0:
        return {"coordinator_address": _join_address(outward, port) if outward else address}
    if environment.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return {"coordinator_address": address}
    ours = [a for a in found if _is_local_address(a)]
    if not ours:
        raise UserError(
            field="distributed.coordinator", value=address,
            reason=f"process 0 must run there, and {found[0]} is no address of this host ({socket.gethostname()})",
            hint="where it is reached through another host, set JAX_COORDINATOR_BIND_ADDRESS=HOST:PORT",
        )  # fmt: skip
    here = _join_address(ours[0], port)
    return {"coordinator_address": here, "coordinator_bind_address": here}
