"""Every form of the contrastive losses against its dense twin, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import batch_sharding, make_mesh, replicated
from clip_jax.losses.contrastive import dense_contrastive_loss, gathered_contrastive_loss, ring_contrastive_loss
from clip_jax.losses.sigmoid import dense_sigmoid_loss, gathered_sigmoid_loss, ring_sigmoid_loss
from clip_jax.models.clip import normalize_features

MESHES = [
    (MeshConfig(), 1),
    (MeshConfig(fsdp=2), 2),
    (MeshConfig(data=2, tensor=2), 4),
    (MeshConfig(), 8),
    (MeshConfig(fsdp=4), 8),
    (MeshConfig(data=2, fsdp=2, slices=2), 8),
]
PAIRS = {
    "softmax": (dense_contrastive_loss, gathered_contrastive_loss, ring_contrastive_loss),
    "sigmoid": (dense_sigmoid_loss, gathered_sigmoid_loss, ring_sigmoid_loss),
}


def arguments(kind, n=48, e=12, dtype=jnp.float32):
    """Return embeddings whose true pairs are alike, scale and (sigmoid) bias."""
    keys = jax.random.split(jax.random.key(0), 2)
    image, noise = (jax.random.normal(k, (n, e), dtype) for k in keys)
    extra = (jnp.asarray(14.3, dtype),) if kind == "softmax" else (jnp.asarray(7.0, dtype), jnp.asarray(-3.0, dtype))
    return normalize_features(image), normalize_features(image + 2 * noise), *extra


def both(kind, form, mesh, dtype, **options):
    """Return (value, gradients) of a form on a mesh, and of the dense twin on one device."""
    dense, *others = PAIRS[kind]
    args = arguments(kind, dtype=dtype)
    every = tuple(range(len(args)))
    loss = functools.partial(others[form], mesh=mesh, **options)
    spread = (*(jax.device_put(x, batch_sharding(mesh)) for x in args[:2]), *args[2:])
    return jax.jit(jax.value_and_grad(loss, every))(*spread), jax.value_and_grad(dense, every)(*args)


def assert_equal(actual, wanted, tolerance):
    np.testing.assert_allclose(actual[0], wanted[0], rtol=tolerance)
    for gradient, reference in zip(actual[1], wanted[1], strict=True):
        np.testing.assert_allclose(
            gradient, reference, rtol=0, atol=tolerance * max(1.0, float(np.abs(reference).max()))
        )


@pytest.mark.thorough
@pytest.mark.parametrize(("config", "devices"), MESHES)
@pytest.mark.parametrize("kind", PAIRS)
def test_pair_losses_equal_the_dense_form_in_float32(kind, config, devices):
    mesh = make_mesh(config, jax.devices()[:devices])
    for form, options in ((0, {}), (1, {"chunk": 256}), (1, {"chunk": 2})):
        assert_equal(*both(kind, form, mesh, jnp.float32, **options), 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(("config", "devices"), [MESHES[0], MESHES[2], MESHES[3]])
@pytest.mark.parametrize("kind", PAIRS)
def test_pair_losses_equal_the_dense_form_in_float64(kind, config, devices):
    with jax.enable_x64(True):
        mesh = make_mesh(config, jax.devices()[:devices])
        for form, options in ((0, {}), (1, {"chunk": 2})):
            actual = both(kind, form, mesh, jnp.float64, **options)
            assert actual[0][0].dtype == jnp.float64
            assert_equal(*actual, 1e-10)


def test_dense_contrastive_loss_equals_figure_3_of_the_paper():
    image, text, _ = arguments("softmax")
    logits = 10.0 * image @ text.T
    labels = jnp.arange(48)
    both = [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in (logits, logits.T)]
    np.testing.assert_allclose(dense_contrastive_loss(image, text, jnp.float32(10)), sum(both) / 2, rtol=1e-6)


def test_ring_contrastive_loss_counts_negatives_of_other_devices():
    mesh = make_mesh(MeshConfig())
    image, text, scale = arguments("softmax")
    whole = ring_contrastive_loss(image, text, scale, mesh=mesh)
    parts = [dense_contrastive_loss(image[i : i + 6], text[i : i + 6], scale) for i in range(0, 48, 6)]
    assert float(whole) > float(np.mean(parts)) + 0.5


@pytest.mark.parametrize("kind", PAIRS)
def test_pair_losses_hold_only_their_rows_or_a_chunk_of_logits(kind):
    mesh = make_mesh(MeshConfig())
    args = arguments(kind)
    _, gathered, ring = PAIRS[kind]

    def program(loss):
        return str(jax.make_jaxpr(jax.value_and_grad(loss, tuple(range(len(args)))))(*args))

    rows, block, part = (f"f32[{shape}]{{V" for shape in ("6,48", "6,6", "2,6"))
    assert rows in program(functools.partial(gathered, mesh=mesh))
    text = program(functools.partial(ring, mesh=mesh, chunk=2))
    assert part in text
    assert not any(larger in text for larger in (rows, block, "48,48"))


def test_ring_contrastive_loss_chunks_are_equal_and_within_the_limit():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    image, text, scale = arguments("softmax")
    jaxpr = str(jax.make_jaxpr(lambda *a: ring_contrastive_loss(*a, mesh=mesh, chunk=10))(image, text, scale))
    assert "f32[8,48]" in jaxpr  # 48 rows in chunks of at most 10 are six of 8


def test_ring_loss_at_batch_32768_needs_under_a_twentieth_of_the_memory():
    mesh = make_mesh(MeshConfig())
    spread, whole = batch_sharding(mesh), replicated(mesh)
    pairs = [jax.ShapeDtypeStruct((32768, 512), jnp.float32, sharding=spread)] * 2
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    needed = []
    for form in (gathered_contrastive_loss, ring_contrastive_loss):
        gradient = jax.value_and_grad(functools.partial(form, mesh=mesh), (0, 1, 2))
        compiled = jax.jit(gradient, out_shardings=(whole, (spread, spread, whole))).lower(*pairs, scale).compile()
        needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert needed[1] < needed[0] / 20
