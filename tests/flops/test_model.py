"""The one place that counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from clip_jax import flops
from clip_jax.config.presets import preset

# open_clip's published profile: parameters in millions (exact where known), GFLOPs a pair (2 per multiply-add)
PUBLISHED = {
    "RN50": (102.01, 18.18), "RN101": (119.69, 25.5), "RN50x4": (178.3, 51.82), "RN50x16": (290.98, 162.69),
    "RN50x64": (623.26, 552.65), "ViT-B/32": (151.277313, 14.78), "ViT-B/16": (149.620737, 41.09),
    "ViT-L/14": (427.616513, 175.33), "ViT-L/14@336px": (427.94, 395.22), "ViT-S/32-alt": (43.22, 3.56),
    "ViT-S/32": (63.09, 5.66), "ViT-M/32": (103.12, 9.95), "ViT-S/16": (62.26, 12.58), "ViT-H/14": (986.11, 381.68),
    "ViT-g/14": (1366.68, 581.15), "ViT-bigG/14": (2539.57, 1065.36), "SigLIP-B/16": (203.16, 46.44),
    "CoCa-B/32": (253.56, 33.34), "CoCa-L/14": (638.45, 214.52),
}  # fmt: skip
# images of the five ResNets, GFLOPs with the mean query alone
RESNETS = {"RN50": 11.59, "RN101": 19.01, "RN50x4": 41.16, "RN50x16": 145.74, "RN50x64": 520.25}


@pytest.mark.parametrize("name", PUBLISHED)
def test_params_and_flops_equal_the_published_profile(name):
    millions, gflops = PUBLISHED[name]
    assert flops.params(preset(name)).total / 1e6 == pytest.approx(millions, abs=0.0051 if millions < 1e3 else 0.0101)
    if not name.startswith("CoCa"):  # its profile counts other parts of the decoder
        counted = flops.flops_per_sample(preset(name), all_queries=True)
        assert counted.total / 1e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("name", RESNETS)
def test_flops_of_a_resnet_pool_with_one_query(name):
    counted = flops.flops_per_sample(preset(name))
    assert counted.image / 1e9 == pytest.approx(RESNETS[name], abs=0.0051)


def test_params_of_vit_b_32_are_exact():
    assert flops.params(preset("ViT-B/32")).total == 151_277_313


def test_params_separate_the_embeddings():
    model = preset("debug")
    counted = flops.params(model)
    assert counted.text - counted.text_no_embed == (512 + 24) * 16
    assert counted.image - counted.image_no_embed == (4 + 1 + 1) * 16
    assert counted.no_embed == counted.image_no_embed + counted.text_no_embed


def test_training_flops_are_three_forward_passes_and_the_logits():
    model = preset("debug")
    counted = flops.training_flops(model, samples_seen=1000, batch_size=32)
    assert counted.logits == 1000 * 6 * 32 * 16
    assert counted.total == 3 * 1000 * flops.flops_per_sample(model).total + counted.logits


def test_training_flops_of_predictive_objectives_count_vocabulary_logits():
    base = dataclasses.replace(preset("debug"), objective="caption")
    counted = flops.training_flops(base, samples_seen=1000, batch_size=32)
    assert counted.logits == 0
    assert counted.total == 3 * 1000 * flops.flops_per_sample(base).total
    frozen = flops.training_flops(base, samples_seen=1000, batch_size=32, freeze="image")
    assert counted.total - frozen.total == 2 * 1000 * flops.flops_per_sample(base).image
    # by hand: 4 + 23 places, 16 wide, 2 deep; the vocabulary's product at 23 places; the prefix
    block = 2 * 27 * (4 * 16 * 16 + 2 * 16 * 64) + 4 * 27 * 27 * 16
    assert flops.flops_per_sample(base).text == 2 * block + 2 * 23 * 16 * 512 + 2 * 16 * 4 * 16


def test_jaxpr_flops_counts_scans_and_branches_and_refuses_unknown_loops():
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
    assert flops.jaxpr_work(scanned, x, w).bytes == 5 * 4 * (2 * x.size + w.size)
    assert flops.jaxpr_flops(branched, x, w) == 2 * one
    with pytest.raises(ValueError, match="while loop"):
        flops.jaxpr_flops(looped, x, w)
