"""The closed forms against the model itself."""

import dataclasses

import jax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax import flops
from clip_jax.config import ModelConfig, TextTowerConfig
from clip_jax.config.presets import PRESETS, ladder, preset
from clip_jax.models.clip import CLIP, make_model
from clip_jax.models.count import walked_flops, xla_flops


@settings(max_examples=8)
@given(rung=st.sampled_from([0.5, 1.0, 2.0, 5.0]), embed=st.integers(3, 40), mlp=st.sampled_from([2.0, 4.0]))
def test_flops_and_params_equal_the_ladder_models(rung, embed, mlp):
    model = ladder(rung)
    model = dataclasses.replace(
        model, embed_dim=embed, image=dataclasses.replace(model.image, mlp_ratio=mlp, patch_size=16)
    )
    state = nnx.state(nnx.eval_shape(lambda: CLIP(model, rngs=nnx.Rngs(0))))
    sizes = {k: sum(x.size for x in jax.tree.leaves(state[k])) for k in ("image", "text")}
    counted = flops.params(model)
    assert (counted.image, counted.text, counted.total) == (
        sizes["image"],
        sizes["text"],
        sum(sizes.values()) + 1,
    )
    assert flops.flops_per_sample(model).total == walked_flops(model)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [n for n in PRESETS if n not in ("ViT-bigG/14", "RN50x64")])
def test_flops_and_params_equal_every_preset(name):
    model = preset(name)
    state = nnx.state(nnx.eval_shape(lambda: CLIP(model, rngs=nnx.Rngs(0))), nnx.Param)
    counted = flops.params(model)
    assert counted.total == sum(x.size for x in jax.tree.leaves(state))
    for part in ("image", "text"):
        assert getattr(counted, part) == sum(x.size for x in jax.tree.leaves(state[part]))
    assert flops.flops_per_sample(model).total == walked_flops(model)


@settings(max_examples=8)
@given(
    arm=st.sampled_from([("caption", "transformer"), ("bag_of_words", "transformer"), ("contrastive", "bag_of_words")]),
    rung=st.sampled_from([0.5, 2.0, 5.0]), embed=st.integers(3, 40), vocab=st.integers(9, 99), prefix=st.integers(1, 6),
)  # fmt: skip
def test_flops_and_params_equal_every_objective(arm, rung, embed, vocab, prefix):
    base = ModelConfig(
        objective=arm[0], prefix_tokens=prefix if arm[0] == "caption" else 4,
        text=TextTowerConfig(encoder=arm[1], vocab_size=vocab, context_length=9),
    )  # fmt: skip
    model = dataclasses.replace(ladder(rung, base), embed_dim=embed)
    state = nnx.state(nnx.eval_shape(lambda: make_model(model, rngs=nnx.Rngs(0))), nnx.Param)
    counted = flops.params(model)
    assert counted.total == sum(x.size for x in jax.tree.leaves(state))
    for part in ("image", "text"):
        assert getattr(counted, part) == sum(x.size for x in jax.tree.leaves(state[part]))
    tables = [x.size for name, x in state["text"].items() if name in ("token", "position")]
    assert counted.text - counted.text_no_embed == sum(tables)
    assert flops.flops_per_sample(model).total == walked_flops(model)


@pytest.mark.parametrize("change", [{"remat": True}, {"scan_layers": False}, {"compute_dtype": "bfloat16"}])
def test_walked_flops_are_independent_of_execution(change):
    model = ladder(4)
    assert walked_flops(dataclasses.replace(model, **change)) == walked_flops(model)


def test_xla_flops_at_width_768_are_near_the_closed_form():
    model = dataclasses.replace(
        preset("ViT-B/32"),
        image=dataclasses.replace(preset("ViT-B/32").image, depth=1),
        text=dataclasses.replace(preset("ViT-B/32").text, depth=1, width=768, heads=12, vocab_size=512),
    )
    ratio = xla_flops(model) / flops.flops_per_sample(model).total
    assert 1.0 <= ratio < 1.03
