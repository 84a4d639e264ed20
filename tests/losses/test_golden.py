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

X64 = jax.config.jax_enable_x64  # tests/pretrained/test_parity_x64.py runs this file again with it
VALUE, GRAD, END = (1e-10, 1e-9, "_f64") if X64 else (2e-5, 1e-4, "")
GOLD = dict(np.load(Path(__file__).parents[1] / "parity" / "losses.npz"))
IN = {
    k[3:]: jnp.asarray(v, None if v.dtype.kind == "i" else "float64" if X64 else "float32")
    for k, v in GOLD.items() if k.startswith("in/")
}  # fmt: skip
STUDENT = ("image_features", "text_features", "logit_scale")


def biased(image, text, scale, bias):
    return dense_contrastive_loss(image, text, scale) + 0 * bias  # a bias of all logits changes no softmax


def caption(logits):
    return 2 * caption_loss(logits, IN["caption_labels"])


def coca(image, text, scale, logits):
    return dense_contrastive_loss(image, text, scale) + caption(logits)


def taught(image, text, scale):
    teacher = (IN["teacher_image_features"], IN["teacher_text_features"], IN["teacher_logit_scale"])
    return distill_loss(image, text, scale, *teacher)


def distill(image, text, scale):
    return dense_contrastive_loss(image, text, scale) + taught(image, text, scale)


# of the chunked form there is no float64 record
CHUNKED = [] if X64 else [("siglip_chunk4", dense_sigmoid_loss, (*STUDENT, "logit_bias"))]


@pytest.mark.parametrize(
    ("name", "loss", "arguments"),
    [
        ("clip", dense_contrastive_loss, STUDENT),
        ("clip_with_bias", biased, (*STUDENT, "logit_bias")),
        ("siglip", dense_sigmoid_loss, (*STUDENT, "logit_bias")),
        *CHUNKED,
        ("coca", coca, (*STUDENT, "caption_logits")),
        ("distill", distill, STUDENT),
    ],
)
def test_losses_value_and_gradients_equal_the_reference(name, loss, arguments):
    values = [IN[a] for a in arguments]
    value, grads = jax.value_and_grad(loss, argnums=tuple(range(len(values))))(*values)
    np.testing.assert_allclose(value, GOLD[f"out/{name}{END}"], rtol=VALUE)
    assert {f"out/{name}/grad/{a}{END}" for a in arguments} == {
        k for k in GOLD if k.startswith(f"out/{name}/grad/") and k.endswith("_f64") == X64
    }
    for argument, grad in zip(arguments, grads, strict=True):
        want = GOLD[f"out/{name}/grad/{argument}{END}"]
        noise = 1e-6 if argument == "logit_bias" else 0.0  # of a gradient that is zero in exact arithmetic
        np.testing.assert_allclose(grad, want, atol=max(GRAD * np.abs(want).max(), noise), rtol=0, err_msg=argument)


@pytest.mark.parametrize(
    ("name", "loss", "arguments"),
    [
        ("coca_contrastive", dense_contrastive_loss, STUDENT),
        ("coca_caption", caption, ("caption_logits",)),
        ("distill_contrastive", dense_contrastive_loss, STUDENT),
        ("distill_distill", taught, STUDENT),
    ],
)
def test_loss_parts_equal_the_reference(name, loss, arguments):
    np.testing.assert_allclose(loss(*(IN[a] for a in arguments)), GOLD[f"out/{name}{END}"], rtol=VALUE)


def test_caption_loss_ignores_padding():
    logits, labels = IN["caption_logits"], np.array(IN["caption_labels"])
    assert (labels == 0).any()
    changed = jnp.where((jnp.asarray(labels) == 0)[..., None], 7.0 * logits + 3, logits)
    np.testing.assert_allclose(caption_loss(changed, labels), caption_loss(logits, labels), rtol=1e-6)
    assert float(caption_loss(logits, np.zeros_like(labels))) == 0.0


def test_distill_loss_gives_the_teacher_no_gradient():
    teacher = IN["teacher_image_features"]
    grad = jax.grad(
        lambda t: distill_loss(IN["image_features"], IN["text_features"], IN["logit_scale"], t,
                               IN["teacher_text_features"], IN["teacher_logit_scale"])
    )(teacher)  # fmt: skip
    assert not np.asarray(grad).any()
