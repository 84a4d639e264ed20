"""Mesh, rules, cache."""

import jax
import pytest

from clip_jax import parallel
from clip_jax.config import ConfigError, MeshConfig


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
def test_mesh_takes_what_is_left(config, shape):
    mesh = parallel.make_mesh(config)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == parallel.AXES


def test_mesh_of_one_device():
    assert parallel.make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_a_mesh_that_does_not_fit_is_an_error():
    with pytest.raises(ConfigError, match=r"data=3 × fsdp=1 × tensor=1 .* 8 devices"):
        parallel.make_mesh(MeshConfig(data=3))
    with pytest.raises(ConfigError, match="does not equal"):
        parallel.make_mesh(MeshConfig(fsdp=3))


def test_batch_must_divide():
    mesh = parallel.make_mesh(MeshConfig())
    parallel.check_batch(16, mesh)
    with pytest.raises(ConfigError, match="batch_size=12"):
        parallel.check_batch(12, mesh)


def test_cache_goes_where_it_is_told(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "c"))
    try:
        assert parallel.enable_compile_cache() == tmp_path / "c"
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "c")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
