"""Encoding in batches equals encoding at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import MeshConfig
from clip_jax.config.presets import preset
from clip_jax.data.images.train_transforms import normalize
from clip_jax.distributed.mesh import batch_sharding, make_mesh
from clip_jax.evals.encode import Encoder, in_batches
from clip_jax.finite import NotFinite
from clip_jax.models.clip import build, init_params, normalize_features


@pytest.fixture
def shapes(monkeypatch):
    """Return a list to which the shape of each batch is added that goes to the devices."""
    shapes, make = [], jax.make_array_from_callback

    def noted(shape, *rest):
        shapes.append(shape)
        return make(shape, *rest)

    monkeypatch.setattr(jax, "make_array_from_callback", noted)
    return shapes


@pytest.mark.thorough
def test_encoder_is_independent_of_batch_size_and_padding(shapes):
    config, mesh = preset("debug"), make_mesh(MeshConfig(fsdp=2))
    built = build(config, mesh)
    params = jax.jit(lambda: init_params(config, 0), out_shardings=built.shardings)()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (21, 32, 32, 3), np.uint8)
    tokens = rng.integers(1, 500, (21, 24)).astype(np.int32)
    encoder = Encoder(built, mesh, batch_size=13)
    assert encoder.batch_size == 16
    model = nnx.merge(built.graphdef, params)
    np.testing.assert_allclose(
        encoder.images(params, images), normalize_features(model.encode_image(normalize(images))), atol=1e-5
    )
    np.testing.assert_allclose(encoder.texts(params, tokens), normalize_features(model.encode_text(tokens)), atol=1e-5)
    assert {shape[0] for shape in shapes} == {16}, "one shape is compiled"


def test_in_batches_keeps_at_most_three_batches_in_flight(monkeypatch):
    under_way, most = [], [0]
    wait = jax.block_until_ready

    def waited(outputs):
        under_way.pop(0)
        return wait(outputs)

    def double(params, rows):
        under_way.append(rows)
        most[0] = max(most[0], len(under_way))
        return rows * 2

    monkeypatch.setattr(jax, "block_until_ready", waited)
    rows = np.arange(100, dtype=np.int32)
    doubled = in_batches(double, None, lambda i: (rows[i],), 100, 8, batch_sharding(make_mesh(MeshConfig())))
    np.testing.assert_array_equal(doubled, rows * 2)
    assert most[0] == 3


def test_encoder_pads_few_inputs_to_a_power_of_two(shapes):
    config, mesh = dataclasses.replace(preset("debug"), scan_layers=False), make_mesh(MeshConfig())
    built = build(config, mesh)
    params = jax.jit(lambda: init_params(config, 0), out_shardings=built.shardings)()
    small, whole = (Encoder(built, mesh, batch_size=64, small_batches=small) for small in (True, False))
    tokens = np.random.default_rng(0).integers(1, 500, (70, 24)).astype(np.int32)
    reference = whole.texts(params, tokens)
    shapes.clear()
    for count in (1, 9, 33, 70):
        np.testing.assert_allclose(small.texts(params, tokens[:count]), reference[:count], atol=1e-5)
    assert [shape[0] for shape in shapes] == [8, 16, 64, 64, 64], (
        "at least one for each of the eight devices, and never above a batch"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_encoder_non_finite_embedding_names_its_row(dtype):
    config = dataclasses.replace(preset("debug"), compute_dtype=dtype, scan_layers=False)
    mesh = make_mesh(MeshConfig())
    built = build(config, mesh)
    params = jax.jit(lambda: init_params(config, 0), out_shardings=built.shardings)()
    table = params["text"]["token"]
    big = jnp.nan if dtype == "float32" else 3e38  # float16 cannot hold it
    params["text"]["token"] = table.at[7].set(jnp.asarray(big, table.dtype))
    tokens = np.full((5, 24), 3, np.int32)
    encoder = Encoder(built, mesh, batch_size=8)
    assert np.isfinite(encoder.texts(params, tokens)).all()
    tokens[3, 2] = 7
    with pytest.raises(NotFinite) as error:
        encoder.texts(params, tokens, "pets: ")
    assert (error.value.field, error.value.source, error.value.row) == ("embedding", "pets: text 3", 3)
    assert ("float16" in (error.value.hint or "")) == (dtype == "float16")
