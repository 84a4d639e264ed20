"""What the environment says of a job: its hosts, its part of a node's GPUs, where process 0 listens."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from clip_jax.distributed import cluster
from clip_jax.distributed.cluster import (
    DEVICES,
    DEVICES_PER_PROCESS,
    PLATFORM,
    check_devices,
    coordinator_arguments,
    device_variables,
    first_host,
    slurm_step,
    tasks_per_node,
    visible_gpus,
)
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error

STEP = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "7", "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[01-12]", "n01"), ("n[3,7-9],m", "n3"), ("rack[1-2]n[01-02]", "rack1n01"),
     ("a[1-2]b[3]c,d", "a1b3c")],
)  # fmt: skip
def test_first_host_of_every_notation(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("text", "tasks"), [("4", [4]), ("4(x2)", [4, 4]), ("2(x3),1", [2, 2, 2, 1]), ("1,3(x2),2", [1, 3, 3, 2])]
)
def test_tasks_per_node_of_every_notation(text, tasks):
    assert tasks_per_node(text) == tasks


def test_tasks_per_node_of_another_notation_is_refused():
    with raises_user_error(ConfigError, value="2(x"):
        tasks_per_node("2(x")


@pytest.mark.parametrize(
    ("change", "devices"),
    [
        ({}, [6, 7]),  # the whole node is used, two each
        ({DEVICES_PER_PROCESS: "1"}, [3]),
        ({"SLURM_LOCALID": "0"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "7,1", "SLURM_LOCALID": "0"}, list(range(8))),  # alone on the second node
        ({"SLURM_STEP_TASKS_PER_NODE": "1,4(x1)"}, [6, 7]),
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, [0, 1]),  # bound: it sees its own alone
        ({"SLURM_GPU_BIND": "single:1", "CUDA_VISIBLE_DEVICES": "0"}, [0]),
        ({"SLURM_GPU_BIND": "none"}, [6, 7]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [3]),  # no GPU: as JAX itself has it
        ({"CUDA_VISIBLE_DEVICES": "", DEVICES_PER_PROCESS: "2"}, [6, 7]),  # another maker's
        ({"JAX_LOCAL_DEVICE_IDS": "5"}, None),
    ],
)
def test_slurm_step_each_task_has_its_part_of_the_node(change, devices):
    step = slurm_step(STEP | change)
    assert step["local_device_ids"] == devices
    assert (step["coordinator_address"], step["num_processes"], step["process_id"]) == ("n1:61447", 8, 7)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({DEVICES_PER_PROCESS: "3"}, DEVICES_PER_PROCESS),
    ],
)
def test_slurm_step_gpus_that_do_not_divide_are_refused(change, field):
    with raises_user_error(ConfigError, field=field):
        slurm_step(STEP | change)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [("", []), ("-1", []), ("2,-1,3", ["2"]), ("GPU-8a,GPU-9b", ["GPU-8a", "GPU-9b"]), ("0", ["0"])],
)
def test_visible_gpus_are_those_that_cuda_would_see(value, numbers):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == numbers


def test_check_devices_names_what_is_missing():
    count = jax.device_count()
    check_devices({})
    check_devices(device_variables("cpu", count, count))
    assert device_variables("gpu", 0, 1) == {}
    for name, value in ((PLATFORM, "gpu"), (DEVICES_PER_PROCESS, str(count + 1)), (DEVICES, str(2 * count))):
        with raises_user_error(field=name, value=value):
            check_devices({name: value})


def named(monkeypatch, **hosts):
    """Let these names resolve so, as /etc/hosts would."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(hosts.get(host, host), *a, **k))


@pytest.mark.parametrize("process", [0, 1])
def test_listen_at_the_address_that_was_given(process):
    arguments = coordinator_arguments("127.0.0.1:1234", process, {}, 0)
    assert arguments["coordinator_address"] == "127.0.0.1:1234"
    assert arguments.get("coordinator_bind_address") == (None if process else "127.0.0.1:1234")
    assert coordinator_arguments("[::1]:1234", 1, {}, 0)["coordinator_address"] == "[::1]:1234"


@pytest.mark.parametrize("process", [0, 1])
def test_listen_at_a_name_that_is_the_loopback_takes_the_interface_towards_the_others(monkeypatch, caplog, process):
    named(monkeypatch, debian="127.0.1.1")
    monkeypatch.setattr(cluster, "outbound_address", lambda host: "127.0.0.9")  # stands for an interface
    arguments = coordinator_arguments("debian:1234", process, {}, 0)
    assert arguments["coordinator_address"] == "127.0.0.9:1234"
    assert arguments.get("coordinator_bind_address") == (None if process else "127.0.0.9:1234")
    (line,) = caplog.messages
    assert "127.0.0.9" in line


def test_listen_at_localhost_stays_there_unless_there_are_several_hosts(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "outbound_address", lambda host: "127.0.0.9")
    assert coordinator_arguments("127.0.0.1:1", 0, {}, 0)["coordinator_bind_address"] == "127.0.0.1:1"
    assert not caplog.messages
    for several in ({"SLURM_STEP_NUM_NODES": "2"}, {"JOB_COMPLETION_INDEX": "0"}):
        assert coordinator_arguments("127.0.0.1:1", 0, several, 0)["coordinator_bind_address"] == "127.0.0.9:1"
        assert caplog.messages
        caplog.clear()


def test_listen_at_an_address_of_another_host_or_an_unknown_name_is_one_line():
    for address, reason in (
        ("192.0.2.7:1", "process 0 must run there"),
        ("no.such.host.invalid:1", "not reached in 0 s"),
    ):
        with raises_user_error(field="distributed.coordinator", value=address) as caught:
            coordinator_arguments(address, 0, {}, 0)
        assert caught.value.reason.startswith(reason)
    with raises_user_error(hint="SLURM_STEP_NODELIST=rack[1-2]n[01-02]") as caught:
        coordinator_arguments("rack1n01:1", 1, {"SLURM_STEP_NODELIST": "rack[1-2]n[01-02]"}, 0)
    assert "JAX_COORDINATOR_ADDRESS" in caught.value.hint


def test_coordinator_service_listens_at_its_address_only():
    program = (
        "import sys\nfrom clip_jax.config import DistributedConfig\n"
        "from clip_jax.distributed.processes import find_processes\n"
        "from clip_jax.distributed.cluster import coordinator_arguments\n"
        "found = find_processes(DistributedConfig(sys.argv[1], 2, 0), {})\n"
        "found |= coordinator_arguments(found['coordinator_address'], 0, {}, 5)\n"
        "from jax._src.lib import _jax\n"
        "service = _jax.get_distributed_runtime_service(found['coordinator_bind_address'], 2)\n"
        "print('up', flush=True); sys.stdin.read(); import os; os._exit(0)"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", program, f"127.0.0.1:{port}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as service:
        assert service.stdout.readline() == b"up\n"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)
        service.stdin.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, "0.92"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}, "0.3"),
        ({"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, None),
    ],
)
def test_use_gpu_memory_takes_most_unless_a_variable_says(monkeypatch, before, after):
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    cluster.use_gpu_memory()
    assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == after
