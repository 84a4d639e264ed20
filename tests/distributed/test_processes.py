"""How a process finds the others. The real thing, two processes at once, is in train/test_multi_process.py."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from clip_jax.config import DistributedConfig
from clip_jax.distributed.processes import find_processes, sum_over_processes
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error

NOTHING = DistributedConfig()
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
POD = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "0", "MEGASCALE_COORDINATOR_ADDRESS": "a"}
OURS = {"CLIP_JAX_COORDINATOR": "h:1", "CLIP_JAX_PROCESSES": "4", "CLIP_JAX_PROCESS": "3"}


def explicit(coordinator, processes, process):
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        (NOTHING, {}, None),
        (DistributedConfig("h:1", 2, 1), {}, explicit("h:1", 2, 1)),
        (DistributedConfig("h:1", 1, 0), SLURM, None),  # explicit goes first
        (DistributedConfig("auto"), {}, {}),
        (NOTHING, OURS, explicit("h:1", 4, 3)),
        (DistributedConfig("g:2", process=0), OURS, explicit("g:2", 4, 0)),
        (NOTHING, {**OURS, "CLIP_JAX_COORDINATOR": "auto"}, {}),
        (DistributedConfig("h:1", 4), {"JOB_COMPLETION_INDEX": "2"}, explicit("h:1", 4, 2)),
        (NOTHING, {"JOB_COMPLETION_INDEX": "2"}, None),  # any indexed job has it
        (NOTHING, SLURM, explicit("n1:61447", 2, 0) | {"local_device_ids": None}),
        (NOTHING, {k: v for k, v in SLURM.items() if "STEP" not in k}, None),  # a batch script outside of srun
        (NOTHING, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive shell in a job of two tasks
        (NOTHING, POD, {}),
        (NOTHING, {"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        (NOTHING, SLICES, {}),
        (NOTHING, {"MEGASCALE_NUM_SLICES": "1"}, None),
    ],
)  # fmt: skip
def test_find_processes_reads_settings_and_environment(settings, environment, expected):
    assert find_processes(settings, environment) == expected


@pytest.mark.parametrize(
    ("settings", "environment", "field", "value"),
    [
        (DistributedConfig("h:1", 2), {}, "distributed.process", None),
        (DistributedConfig("h:1"), {}, "distributed.processes", None),
        (NOTHING, {"CLIP_JAX_PROCESSES": "2", "CLIP_JAX_PROCESS": "0"}, "distributed.coordinator", None),
        (NOTHING, {**OURS, "CLIP_JAX_PROCESS": "4"}, "distributed.process", 4),
        (NOTHING, {**OURS, "CLIP_JAX_PROCESSES": "many"}, "CLIP_JAX_PROCESSES", "many"),
        (NOTHING, {**OURS, "CLIP_JAX_COORDINATOR": "h"}, "distributed.coordinator", "h"),
        (NOTHING, {k: v for k, v in SLURM.items() if k != "SLURM_LOCALID"}, "SLURM_LOCALID", None),
        (NOTHING, {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID", None),
        (NOTHING, {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "0"}, "MEGASCALE_COORDINATOR_ADDRESS", None),
    ],
)
def test_find_processes_of_incomplete_settings_names_the_field(settings, environment, field, value):
    with raises_user_error(ConfigError, field=field, value=value):
        find_processes(settings, environment)


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"coordinator": "auto", "processes": 2}, "distributed.processes, distributed.process", None),
        ({"processes": 2, "process": 2}, "distributed.process", 2),
        ({"heartbeat_s": 0}, "distributed.heartbeat_s", 0),
        ({"process": -2}, "distributed.process", -2),
    ],
)
def test_distributed_config_out_of_range_is_refused(fields, field, value):
    with raises_user_error(ConfigError, field=field, value=value):
        DistributedConfig(**fields)


def test_initialized_single_process_imports_no_jax():
    program = (
        "import sys; from clip_jax.config import DistributedConfig\n"
        "from clip_jax.distributed.processes import initialized\n"
        "with initialized(DistributedConfig(), on_error=int): sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_counts_of_processes_are_summed_beyond_32_bits(monkeypatch):
    assert sum_over_processes({"bytes": 5, "retries": 0}) == {"bytes": 5, "retries": 0}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    gather = lambda values: np.stack([np.asarray(jnp.asarray(values))] * 3)  # noqa: E731
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    assert sum_over_processes({"bytes": 3 << 32, "retries": 1}) == {"bytes": 9 << 32, "retries": 3}
