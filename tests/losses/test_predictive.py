"""Cross-entropy over the vocabulary: whole, in chunks, on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import batch_sharding, make_mesh
from clip_jax.losses.predictive import caption_loss, chunked_row_losses, row_losses, vocabulary_loss

B, R, D, V, LABELS = 16, 3, 8, 50, 2


def inputs(dtype=np.float32, bias=True):
    rng = np.random.default_rng(0)
    # rows count unequally, so that a mean of the devices' means is another number
    weights = rng.integers(0, 3, (B, R, LABELS)) * (np.arange(B) < 11)[:, None, None]
    head = (rng.normal(size=(D, V)).astype(dtype), rng.normal(size=V).astype(dtype) if bias else None)
    return rng.normal(size=(B, R, D)).astype(dtype), head, rng.integers(0, V, (B, R, LABELS)), weights.astype(dtype)


def by_hand(states, head, labels, weights):
    logits = states.astype(float) @ head[0] + (0 if head[1] is None else head[1])
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -(np.take_along_axis(logs, labels, axis=-1) * weights).sum() / weights.sum()


def value_and_grads(mesh, chunk, arrays):
    states, head, labels, weights = arrays
    rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    states, labels, weights = (jax.device_put(x, rows) for x in (states, labels, weights))

    def loss(states, head):
        return vocabulary_loss(states, head, labels, weights, mesh=mesh, chunk=chunk)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(states, jax.device_put(head, whole))


@pytest.mark.parametrize("bias", [True, False])
def test_vocabulary_loss_is_the_weighted_mean_cross_entropy(bias):
    arrays = inputs(bias=bias)
    value, _ = value_and_grads(make_mesh(MeshConfig(), jax.devices()[:1]), 0, arrays)
    assert float(value) == pytest.approx(by_hand(*arrays), rel=1e-6)


@pytest.mark.thorough
def test_vocabulary_loss_is_independent_of_chunks_and_mesh():
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-10)):
        with jax.enable_x64(dtype == np.float64):
            arrays = inputs(dtype)
            want = value_and_grads(make_mesh(MeshConfig(), jax.devices()[:1]), 0, arrays)
            assert want[0].dtype == dtype
            for config, devices, chunk in (
                (MeshConfig(), jax.devices()[:1], 7),  # 48 rows: the last chunk is short
                (MeshConfig(), None, 0),
                (MeshConfig(fsdp=2), None, 4),
            ):
                actual = value_and_grads(make_mesh(config, devices), chunk, arrays)
                jax.tree.map(lambda a, b, t=tolerance: np.testing.assert_allclose(a, b, rtol=t, atol=t), actual, want)


def test_vocabulary_loss_equals_caption_loss():
    states, (kernel, _), labels, _ = inputs(bias=False)
    labels = labels[..., :1] * (np.arange(B) % 3 > 0)[:, None, None]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    loss = vocabulary_loss(states, (kernel, None), labels, (labels != 0).astype(np.float32), mesh=mesh)
    assert float(loss) == pytest.approx(float(caption_loss(states @ kernel, labels[..., 0])), rel=1e-6)


def test_vocabulary_loss_with_zero_weights_is_zero():
    states, head, labels, weights = inputs()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    loss = jax.value_and_grad(lambda s: vocabulary_loss(s, head, labels, 0 * weights, mesh=mesh, chunk=5))
    value, grad = loss(states)
    assert float(value) == 0.0
    assert not np.asarray(grad).any()


def test_vocabulary_loss_of_half_precision_is_summed_in_float32():
    states, head, labels, weights = (jax.tree.map(jnp.asarray, x) for x in inputs())
    half = (states.astype(jnp.bfloat16), jax.tree.map(lambda x: x.astype(jnp.bfloat16), head))
    rows = row_losses(half[0].reshape(-1, D), half[1], labels.reshape(-1, LABELS), weights.reshape(-1, LABELS))
    assert rows.dtype == jnp.float32
    exact = [np.asarray(x, np.float64) for x in (half[0], *half[1])]
    total = by_hand(exact[0], (exact[1], exact[2]), np.asarray(labels), np.asarray(weights))
    np.testing.assert_allclose(rows.sum() / weights.sum(), total, rtol=1e-5)


def test_vocabulary_loss_keeps_no_logits_for_the_backward_pass():
    rows, vocabulary = 512, 4096
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, 16), (16, vocabulary), (rows, 1))]
    labels = jax.ShapeDtypeStruct((rows, 1), jnp.int32)

    def temporary(function):
        def loss(states, kernel, weights, labels):
            return jnp.sum(function(states, (kernel, None), labels, weights))

        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporary(row_losses)
    assert whole > 4 * rows * vocabulary
    assert temporary(lambda *a: chunked_row_losses(*a, 16)) < whole / 8
