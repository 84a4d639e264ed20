"""Mesh, rules, calls in flight, cache."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.distributed import mesh as parallel
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(fsdp=4), (1, 2, 4, 1)),
        (MeshConfig(data=2, fsdp=-1), (1, 2, 4, 1)),
        (MeshConfig(data=1, fsdp=2, tensor=-1), (1, 1, 2, 4)),
        (MeshConfig(slices=2, tensor=2), (2, 2, 1, 2)),
    ],
)
def test_make_mesh_fills_the_free_axis(config, shape):
    mesh = parallel.make_mesh(config)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == parallel.AXES


def test_make_mesh_of_one_device():
    assert parallel.make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_make_mesh_that_does_not_fit_is_refused():
    with raises_user_error(ConfigError, field="mesh", reason="data=3 × fsdp=1"):
        parallel.make_mesh(MeshConfig(data=3))
    with raises_user_error(ConfigError, field="mesh", reason="data=2 × fsdp=3"):
        parallel.make_mesh(MeshConfig(fsdp=3))


def test_check_batch_that_does_not_divide_is_refused():
    mesh = parallel.make_mesh(MeshConfig())
    parallel.check_batch(16, mesh)
    with raises_user_error(ConfigError, field="batch_size", value=12):
        parallel.check_batch(12, mesh)


class Output:
    """What a call returns; remembers whether it was waited for."""

    done = False

    def block_until_ready(self):
        self.done = True
        return self


def test_in_flight_waits_for_the_call_two_before_and_returns_in_order():
    in_flight, outputs, finished = parallel.InFlight(), [Output() for _ in range(6)], []
    for count, output in enumerate(outputs, start=1):
        finished += in_flight.add(output)
        assert [o.done for o in outputs] == [True] * (count - 2) + [False] * min(6 - count + 2, 6)
    assert finished + in_flight.rest() == outputs
    assert all(o.done for o in outputs)
    assert in_flight.rest() == []


MANY_CALLS = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import InFlight, batch_sharding, make_mesh, replicated

mesh, in_flight = make_mesh(MeshConfig()), InFlight({most})

@jax.jit
def step(w, x):
    def loss(w):
        z = jax.numpy.tanh(x @ w)
        return jax.nn.logsumexp(z @ z.T, axis=1).mean()

    return jax.lax.with_sharding_constraint(w - 0.01 * jax.grad(loss)(w), replicated(mesh))

w = jax.device_put(np.eye(64, dtype=np.float32), replicated(mesh))
x = np.ones((64, 64), np.float32)
for _ in range(2000):
    w = step(w, jax.device_put(x, batch_sharding(mesh)))
    in_flight.add(w)
print(float(w.sum()))
"""


@pytest.mark.thorough
def test_in_flight_thousands_of_collectives_do_not_starve_cpu_devices():
    # without a bound XLA's threads all wait for one another, and it aborts the process after a minute
    command = [sys.executable, "-c", MANY_CALLS.format(most=2)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    assert np.isfinite(float(child.stdout))


def test_enable_compile_cache_follows_the_environment(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "c"))
    try:
        assert parallel.enable_compile_cache() == tmp_path / "c" / "xla"
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "c" / "xla")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_check_batch_a_tensor_axis_over_processes_is_refused(monkeypatch):
    mesh = parallel.make_mesh(MeshConfig(data=1, tensor=8))
    parallel.check_batch(16, mesh)
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # the other one holds the same rows
    with raises_user_error(field="mesh.tensor", value=8, reason="2 processes"):
        parallel.check_batch(16, mesh)


CACHED = (
    "import jax; from clip_jax.distributed.mesh import enable_compile_cache\n"
    "from jax._src import monitoring; hits = []\n"
    "monitoring.register_event_listener(lambda name, **_: hits.append(name) if 'cache_hits' in name else None)\n"
    "print(enable_compile_cache(), jax.jit(lambda x: x * 3 + 1)(2.0), len(hits))"
)


@pytest.mark.thorough
def test_enable_compile_cache_in_a_bucket_serves_the_next_process(bucket):
    environment = os.environ | {"CLIP_JAX_COMPILE_CACHE": "gs://bucket/s/.cache/xla"}
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "compilation cache" not in done.stderr, "JAX says so where it cannot read or write it"
        outputs.append(done.stdout.split())
    assert [o[:2] for o in outputs] == [["gs://bucket/s/.cache/xla", "7.0"]] * 2
    assert int(outputs[0][2]) == 0 < int(outputs[1][2])
    assert any("/.cache/xla/jit_" in name for name in bucket.objects)
