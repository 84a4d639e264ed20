"""Reading and writing go through the same entries."""

import numpy as np
import pytest

from clip_jax.errors import UserError
from clip_jax.pretrained import layouts, mapping
from clip_jax.pretrained.files import read_json, read_tensors

from ..user_errors import raises_user_error

CASES = ("openai_vit", "openai_rn", "openclip_vit_gelu", "openclip_customtext_quickgelu", "openclip_clipa",
         "openclip_siglip", "openclip_coca", "hf_clip", "hf_siglip")  # fmt: skip


def load(golden, name):
    tensors = read_tensors(next((golden / name).glob("*.safetensors")))
    config = read_json(golden / name / "config.json")
    return tensors, layouts.detect(tensors, None if config.get("family") == "openai" else config, name)


@pytest.mark.parametrize("name", CASES)
def test_layout_round_trip_is_exact_for_every_key(golden, name):
    tensors, layout = load(golden, name)
    back = mapping.write(layouts.read(tensors, layout, name), layout.entries)
    wanted = {k: v for k, v in tensors.items() if not k.endswith(layout.ignored)}
    assert set(back) == set(wanted)
    for key, value in wanted.items():
        assert back[key].shape == value.shape, key
        np.testing.assert_array_equal(back[key], value.astype(back[key].dtype), err_msg=key)


@pytest.mark.parametrize("name", ["openai_vit", "openai_rn", "hf_clip", "openclip_siglip"])
def test_layout_read_lists_missing_unexpected_and_misshapen_tensors(golden, name):
    tensors, layout = load(golden, name)
    keys = sorted(k for k in tensors if k.endswith("weight") and tensors[k].ndim == 2)
    gone, bent = keys[0], keys[-1]
    broken = {k: v for k, v in tensors.items() if k != gone} | {"stranger.weight": np.zeros(3, np.float32)}
    broken[bent] = np.zeros((3, 5), np.float32)
    with pytest.raises(UserError) as error:
        layouts.read(broken, layout, "x.safetensors")
    text = str(error.value)
    assert "\n" not in text
    for part in ("x.safetensors", f"1 missing: {gone}", "1 unexpected: stranger.weight", "of another shape", bent):
        assert part in text


def test_layout_read_long_list_is_shortened(golden):
    tensors, layout = load(golden, "openclip_vit_gelu")
    with raises_user_error(field="x", reason="85 missing"):
        layouts.read({"logit_scale": tensors["logit_scale"]}, layout, "x")


def test_nest_inverts_flatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert mapping.nest(mapping.flatten(tree)) == tree
