"""What `deterministic` sets, and when it is refused."""

import dataclasses
import os
import subprocess
import sys

import jax
import pytest

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.io import run_id
from clip_jax.train.determinism import FLAG, model_to_build, set_deterministic

from ..user_errors import raises_user_error


@pytest.fixture
def flags(monkeypatch):
    """Set ``XLA_FLAGS`` and one visible GPU."""

    def set_flags(text, gpus="0"):
        monkeypatch.setenv("XLA_FLAGS", text)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    return set_flags


def test_a_started_process_is_refused_unless_it_has_the_flag(flags):
    jax.devices()
    wanted, other = RunConfig(deterministic=True), RunConfig()
    flags("--one")
    with raises_user_error(field="deterministic", value=True, hint=FLAG):
        set_deterministic(wanted)
    set_deterministic(other)
    assert os.environ["XLA_FLAGS"] == "--one"
    flags(f"--one {FLAG}")
    set_deterministic(wanted)
    flags("--one", gpus="")
    set_deterministic(wanted)
    assert os.environ["XLA_FLAGS"] == "--one", "no GPU, no flag"


def test_the_flag_is_set_before_the_devices_start():
    program = (
        "import os; from clip_jax.config import RunConfig\n"
        "from clip_jax.train.determinism import set_deterministic\n"
        "for _ in range(2): set_deterministic(RunConfig(deterministic=True))\n"
        "print(os.environ['XLA_FLAGS']); import jax; jax.devices()"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["--xla_force_host_platform_device_count=1", FLAG]


class Card:
    platform, device_kind, compute_capability = "gpu", "NVIDIA H100 80GB HBM3", "9.0"


def test_attention_is_written_out_on_a_gpu_only():
    run = RunConfig(deterministic=True, model=ModelConfig(compute_dtype="bfloat16"))
    assert model_to_build(run, Card()).attention == "xla"
    assert model_to_build(dataclasses.replace(run, deterministic=False), Card()) is run.model
    assert model_to_build(run, jax.devices()[0]) is run.model
    with raises_user_error(field="model.attention", value="cudnn"):
        dataclasses.replace(run, model=dataclasses.replace(run.model, attention="cudnn"))


def test_the_default_leaves_ids_alone():
    assert run_id(RunConfig()) == run_id(RunConfig(deterministic=False)) != run_id(RunConfig(deterministic=True))
