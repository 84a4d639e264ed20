"""Named sizes and the ladder."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clip_jax import flops
from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.config.presets import PRESETS, ladder, preset
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error


def test_ladder_cost_rises_over_three_orders_of_magnitude():
    costs = [flops.flops_per_sample(ladder(r / 2)).total for r in range(1, 129)]
    assert costs == sorted(costs)
    assert costs[-1] / costs[0] > 1e3


def test_ladder_at_48_is_vit_b():
    model = ladder(48)
    assert (model.image.width, model.image.depth, model.image.heads) == (768, 12, 12)


@given(st.floats(0.5, 80))
def test_ladder_rungs_have_allowed_head_sizes(rung):
    model = ladder(rung)
    head = model.image.width // model.image.heads
    assert head in (8, 16, 32, 64)
    assert abs(model.image.width - 16 * rung) <= head / 2 + 1e-9 or model.image.width == head
    assert (model.text.width, model.text.depth, model.embed_dim) == (
        model.image.width, model.image.depth, model.image.width,
    )  # fmt: skip


def test_ladder_keeps_other_fields_of_the_base():
    base = ModelConfig(
        image=ImageTowerConfig(patch_size=4), text=TextTowerConfig(vocab_size=333), compute_dtype="bfloat16"
    )
    model = ladder(2, base)
    assert (model.image.patch_size, model.text.vocab_size, model.compute_dtype) == (4, 333, "bfloat16")


def test_preset_or_rung_unknown_is_named():
    with raises_user_error(ConfigError, field="preset", value="ViT-Z"):
        preset("ViT-Z")
    for bad in (0.4, float("nan")):
        with raises_user_error(ConfigError, field="rung"):
            ladder(bad)


def test_preset_shapes_are_the_published_ones():
    large = preset("ViT-L/14@336px")
    assert (large.image.tokens, large.image.depth, large.embed_dim) == (577, 24, 768)
    paper = (
        "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
    )  # fmt: skip
    assert {PRESETS[name].activation for name in paper} == {"quick_gelu"}


def test_ladder_of_resnets_contains_rn50_and_rises_in_cost():
    base = preset("RN50")
    assert ladder(48, base).image == base.image
    costs = [flops.flops_per_sample(ladder(r / 2, base)).total for r in range(1, 129)]
    assert all(a <= b for a, b in pairwise(costs))
    assert costs[-1] / costs[0] > 1000
    small = ladder(1.5, base)
    assert (small.image.width, small.image.stages, small.text.width, small.embed_dim) == (6, (1, 1, 1, 1), 24, 24)
