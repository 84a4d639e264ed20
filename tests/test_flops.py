"""The one place that counts."""

import jax
import jax.numpy as jnp
import pytest

from clip_jax import flops
from clip_jax.presets import preset

# open_clip's published profile: parameters, GFLOPs a pair (2 per multiply-add)
PUBLISHED = {
    "ViT-B/32": (151_277_313, 14.78),
    "ViT-B/16": (149_620_737, 41.09),
    "ViT-L/14": (427_616_513, 175.33),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_equal_the_published_profile(name):
    params, gflops = PUBLISHED[name]
    assert flops.params(preset(name)).total == params
    assert flops.flops_per_sample(preset(name)).total / 1e9 == pytest.approx(gflops, rel=0.01)


def test_embeddings_are_told_apart():
    model = preset("debug")
    counted = flops.params(model)
    assert counted.text - counted.text_no_embed == (512 + 24) * 16
    assert counted.image - counted.image_no_embed == (4 + 1 + 1) * 16
    assert counted.no_embed == counted.image_no_embed + counted.text_no_embed


def test_training_counts_three_forwards_and_the_logits_once():
    model = preset("debug")
    counted = flops.training_flops(model, samples_seen=1000, batch_size=32)
    assert counted.logits == 1000 * 6 * 32 * 16
    assert counted.total == 3 * 1000 * flops.flops_per_sample(model).total + counted.logits


def test_walk_counts_scans_branches_and_refuses_unknown_loops():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    w = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    one = 2 * 4 * 8 * 8

    def scanned(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=5)[0]

    def branched(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    def looped(x, w):
        return jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ w, x)

    assert flops.jaxpr_flops(scanned, x, w) == 5 * one
    assert flops.jaxpr_flops(branched, x, w) == 2 * one
    with pytest.raises(ValueError, match="while loop"):
        flops.jaxpr_flops(looped, x, w)


def test_an_unknown_device_is_unknown_and_never_zero():
    assert flops.peak_flops("cpu", "float32") is None
    assert flops.peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert flops.peak_flops("TPU v4", "float32") is None
