"""Every loss against the reference implementations' values and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses.contrastive import dense_contrastive_loss
from clip_jax.losses.distill import distill_loss
from clip_jax.losses.predictive import caption_loss
from clip_jax.losses.sigmoid import dense_sigmoid_loss

GOLD = dict(np.load(Path(__file__).parents[1] / "parity" / "losses.npz"))
IN = {k[3:]: jnp.asarray(v) for k, v in GOLD.items() if k.startswith("in/")}
STUDENT = ("image_features", "text_features", "logit_scale")


def coca(image, text, scale, logits):
    return dense_contrastive_loss(image, text, scale) + 2 * caption_loss(logits, IN["caption_labels"])


def distill(image, text, scale):
    teacher = (IN["teacher_image_features"], IN["teacher_text_features"], IN["teacher_logit_scale"])
    return dense_contrastive_loss(image, text, scale) + distill_loss(image, text, scale, *teacher)


@pytest.mark.parametrize(
    ("name", "loss", "arguments"),
    [
        ("clip", dense_contrastive_loss, STUDENT),
        ("siglip", dense_sigmoid_loss, (*STUDENT, "logit_bias")),
        ("siglip_chunk4", dense_sigmoid_loss, (*STUDENT, "logit_bias")),
        ("coca", coca, (*STUDENT, "caption_logits")),
        ("distill", distill, STUDENT),
    ],
)
def test_value_and_gradients(name, loss, arguments):
    values = [IN[a] for a in arguments]
    value, grads = jax.value_and_grad(loss, argnums=tuple(range(len(values))))(*values)
    np.testing.assert_allclose(value, GOLD[f"out/{name}"], rtol=2e-5)
    for argument, grad in zip(arguments, grads, strict=True):
        want = GOLD[f"out/{name}/grad/{argument}"]
        np.testing.assert_allclose(grad, want, atol=1e-4 * np.abs(want).max(), rtol=0, err_msg=argument)


def test_a_bias_changes_no_softmax():
    np.testing.assert_allclose(GOLD["out/clip_with_bias"], GOLD["out/clip"], rtol=1e-6)


def test_padding_counts_for_nothing():
    logits, labels = IN["caption_logits"], np.array(IN["caption_labels"])
    assert (labels == 0).any()
    changed = jnp.where((jnp.asarray(labels) == 0)[..., None], 7.0 * logits + 3, logits)
    np.testing.assert_allclose(caption_loss(changed, labels), caption_loss(logits, labels), rtol=1e-6)
    assert float(caption_loss(logits, np.zeros_like(labels))) == 0.0


def test_no_gradient_reaches_the_teacher():
    teacher = IN["teacher_image_features"]
    grad = jax.grad(
        lambda t: distill_loss(IN["image_features"], IN["text_features"], IN["logit_scale"], t,
                               IN["teacher_text_features"], IN["teacher_logit_scale"])
    )(teacher)  # fmt: skip
    assert not np.asarray(grad).any()
