"""The comparable loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.evals.validation import contrastive_loss, validation_loss
from clip_jax.losses.contrastive import dense_contrastive_loss


def unit(seed, n=24, e=6):
    x = np.random.default_rng(seed).standard_normal((n, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_contrastive_loss_equals_the_training_loss():
    a, b = unit(0), unit(1)
    loss = contrastive_loss(a @ b.T, np.log(7.0))
    reference = dense_contrastive_loss(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), jnp.float32(7))
    assert loss == pytest.approx(float(reference), rel=1e-5)


def test_validation_loss_refit_is_independent_of_the_temperature():
    a = unit(0)
    b = a + 0.3 * unit(1)
    rows = [{r["metric"]: r["value"] for r in validation_loss(a, b, scale, 12)} for scale in (3.0, 90.0)]
    assert rows[0]["loss"] != pytest.approx(rows[1]["loss"])
    assert rows[0]["loss_refit"] == pytest.approx(rows[1]["loss_refit"])
    assert rows[0]["loss_refit"] <= min(r["loss"] for r in rows) + 1e-9
    halves = [contrastive_loss(a[i : i + 12] @ b[i : i + 12].T, np.log(3.0)) for i in (0, 12)]
    assert rows[0]["loss"] == pytest.approx(np.mean(halves))


def test_validation_loss_chance_is_the_log_of_the_batch():
    rows = validation_loss(np.ones((8, 2)), np.ones((8, 2)), 5.0, 8)
    assert rows[0]["value"] == pytest.approx(rows[0]["chance"]) == pytest.approx(np.log(8))
