"""Whole models from folders, and back."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_jax.errors import UserError
from clip_jax.pretrained import layouts
from clip_jax.pretrained.files import read_tensors, write_tensors
from clip_jax.pretrained.load import digest, load_weights, save_weights
from clip_jax.pretrained.mapping import flatten
from clip_jax.pretrained.open_clip import trunk_activation

from ..user_errors import raises_user_error

RELEASED = pytest.mark.filterwarnings("ignore:.*no config beside it, so read as a released model")


@pytest.mark.thorough
@RELEASED
@pytest.mark.parametrize(
    ("name", "layout"),
    [("openai_vit", "open_clip"), ("openai_rn", "open_clip"), ("openclip_vit_gelu", "open_clip"),
     ("openclip_clipa", "open_clip"), ("openclip_vit_gelu", "transformers"), ("hf_clip", "transformers"),
     ("hf_clip", "open_clip"), ("openclip_siglip", "open_clip"), ("openclip_coca", "open_clip"),
     ("openclip_siglip", "transformers"), ("hf_siglip", "transformers")],
)  # fmt: skip
def test_what_is_exported_loads_as_the_same_model(golden, tmp_path, name, layout):
    weights = load_weights(str(golden / name))
    save_weights(weights, tmp_path / "out", layout)
    again = load_weights(str(tmp_path / "out"))
    assert again.config == weights.config
    assert again.digest == weights.digest
    assert again.preprocess == weights.preprocess


@pytest.mark.parametrize("name", ["openclip_vit_gelu", "openclip_siglip", "openclip_coca", "hf_clip", "hf_siglip"])
def test_keys_are_written_as_they_were_read(golden, tmp_path, name):
    layout = "transformers" if name.startswith("hf") else "open_clip"
    save_weights(load_weights(str(golden / name)), tmp_path, layout)
    before = read_tensors(next((golden / name).glob("*.safetensors")))
    after = read_tensors(next(tmp_path.glob("*.safetensors")))
    assert set(after) == set(before)
    for key in before:
        assert after[key].shape == before[key].shape, key
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)


@RELEASED
@pytest.mark.parametrize(
    ("name", "layout"), [("openclip_siglip", "transformers"), ("openclip_coca", "transformers"),
                         ("openai_rn", "transformers"), ("hf_siglip", "open_clip")],
)  # fmt: skip
def test_what_cannot_be_written_is_told_and_nothing_is_left(golden, tmp_path, name, layout):
    weights = load_weights(str(golden / name))
    if name == "openclip_siglip":  # the same towers, but no bias in its config
        weights = dataclasses.replace(weights, config=dataclasses.replace(weights.config, logit_bias=False))
    with raises_user_error(source=f"export to {layout}", field=re.compile("^model.image")):
        save_weights(weights, tmp_path / "out", layout)
    with raises_user_error(field="layout", value="flax"):
        save_weights(weights, tmp_path / "out", "flax")
    padded = dataclasses.replace(weights.preprocess, resize_mode="longest")
    with raises_user_error(source="export to transformers", field="resize_mode", value="longest"):
        save_weights(dataclasses.replace(weights, preprocess=padded), tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_siglip_squashes_and_centers_on_a_half(golden):
    preprocess = load_weights(str(golden / "hf_siglip")).preprocess
    assert (preprocess.resize_mode, preprocess.mean) == ("squash", (0.5, 0.5, 0.5))


def test_settings_that_are_not_known_are_errors(golden, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(golden / "openclip_vit_gelu", folder)
    config = json.loads((folder / "config.json").read_text())
    for block, name in (("vision_cfg", "qk_norm"), ("text_cfg", "qk_norm")):
        changed = json.loads(json.dumps(config))
        changed["model_cfg"][block][name] = True
        (folder / "config.json").write_text(json.dumps(changed))
        with raises_user_error(source=folder / "config.json", field=f"{block}.{name}", value=True):
            load_weights(str(folder))
    path = folder / "config.json"
    for bad, attributes in (
        ({"model_cfg": {"embed_dim": 8}}, {"field": path, "reason": "vision_cfg"}),
        ({"model_type": "bert"}, {"source": path, "field": "model_type", "value": "bert"}),
        ({"model_type": "clip", "text_config": 3}, {"field": path, "reason": "TypeError"}),
    ):
        path.write_text(json.dumps(bad))
        with raises_user_error(**attributes):
            load_weights(str(folder))


def test_a_wrong_shape_names_tensor_and_both_shapes(golden, tmp_path):
    tensors = read_tensors(golden / "openclip_vit_gelu" / "weights.safetensors")
    tensors["visual.proj"] = tensors["visual.proj"][:-1]
    write_tensors(tmp_path / "weights.safetensors", tensors)
    shutil.copy(golden / "openclip_vit_gelu" / "config.json", tmp_path)
    with raises_user_error(field=tmp_path / "weights.safetensors", reason="visual.proj is [31, 24]"):
        load_weights(str(tmp_path))


def test_weights_of_transformers_alone_ask_for_their_config(golden, tmp_path):
    shutil.copy(golden / "hf_clip" / "model.safetensors", tmp_path)
    with raises_user_error(field=tmp_path / "model.safetensors", reason="config.json"):
        load_weights(str(tmp_path))
    write_tensors(tmp_path / "model.safetensors", {"encoder.weight": np.ones((2, 2), np.float32)})
    with raises_user_error(source=tmp_path / "model.safetensors", field="token_embedding.weight"):
        load_weights(str(tmp_path))


def test_the_digest_sees_every_number(golden):
    weights = load_weights(str(golden / "hf_clip"))
    flat = flatten(weights.params)
    name = sorted(flat)[3]
    before = digest(weights.params, weights.config)
    flat[name].reshape(-1)[0] += 1e-3
    assert digest(weights.params, weights.config) != before
    flat[name].reshape(-1)[0] -= 1e-3
    other = dataclasses.replace(weights.config, activation="gelu_erf")
    assert digest(weights.params, other) != digest(weights.params, weights.config)
    assert layouts.LAYOUTS == ("openai", "open_clip", "transformers")


def test_a_tokenizer_beside_the_weights_is_cleaned_as_its_config_says(golden, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "model"
    shutil.copytree(golden / "openclip_siglip", folder)
    library = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "dog": 2, "Dog": 3}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(folder / "tokenizer.json"))
    tokens = load_weights(str(folder)).tokenizer.encode(["Dog!"])
    assert tokens.tolist() == [[2] + [1] * 15]
    config = json.loads((folder / "config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "none"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_weights(str(folder)).tokenizer.encode(["Dog"])[0, 0] == 3


def test_preprocessing_of_transformers_comes_in_and_goes_out(golden, tmp_path):
    weights = load_weights(str(golden / "hf_clip"))
    for change in ({"resize_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}, {"interpolation": "bilinear"}):
        preprocess = dataclasses.replace(weights.preprocess, **change)
        save_weights(dataclasses.replace(weights, preprocess=preprocess), tmp_path, "transformers")
        assert load_weights(str(tmp_path)).preprocess == preprocess


def test_weights_without_a_config_say_what_they_are_taken_for(golden, tmp_path):
    tensors = read_tensors(golden / "openai_vit" / "weights.safetensors")
    write_tensors(tmp_path / "weights.safetensors", tensors)  # as released: it says so itself
    assert load_weights(str(tmp_path)).config.activation == "quick_gelu"
    del tensors["input_resolution"]
    write_tensors(tmp_path / "weights.safetensors", tensors)
    with pytest.warns(UserWarning, match=r"weights.safetensors: no config beside it, so read as .* QuickGELU"):
        load_weights(str(tmp_path))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_fuzzed_model_loads_whole_or_is_one_line(golden, tmp_path, where, byte):
    data = bytearray((golden / "hf_clip" / "model.safetensors").read_bytes())
    head = 8 + int.from_bytes(data[:8], "little")
    data[where % head] = byte  # names, types, shapes and places
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    shutil.copy(golden / "hf_clip" / "config.json", tmp_path)
    try:
        params = flatten(load_weights(str(tmp_path)).params)
    except UserError as error:
        params, message = {}, str(error)
    else:
        message = "model.safetensors: whole"
    assert {v.dtype for v in params.values()} <= {np.dtype(np.float32)}
    assert "model.safetensors" in message
    assert "\n" not in message


def test_whole_numbers_are_no_weights(golden, tmp_path):
    tensors = read_tensors(golden / "hf_clip" / "model.safetensors")
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"].view(np.int32)
    write_tensors(tmp_path / "model.safetensors", tensors)
    shutil.copy(golden / "hf_clip" / "config.json", tmp_path)
    with raises_user_error(field=tmp_path / "model.safetensors", reason="visual_projection.weight holds int32"):
        load_weights(str(tmp_path))


def test_bfloat16_weights_are_read(golden, tmp_path):
    import ml_dtypes

    tensors = read_tensors(golden / "hf_clip" / "model.safetensors")
    write_tensors(tmp_path / "model.safetensors", {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()})
    shutil.copy(golden / "hf_clip" / "config.json", tmp_path)
    projection = load_weights(str(tmp_path)).params["image"]["projection"]
    want = tensors["visual_projection.weight"].T
    np.testing.assert_allclose(projection, want, atol=0.01 * np.abs(want).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_named(golden, tmp_path, bad):
    tensors = read_tensors(golden / "hf_clip" / "model.safetensors")
    name = "text_model.final_layer_norm.weight"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][3] = bad
    write_tensors(tmp_path / "model.safetensors", tensors)
    shutil.copy(golden / "hf_clip" / "config.json", tmp_path)
    with raises_user_error(source=tmp_path / "model.safetensors", field=name, reason="finite"):
        load_weights(str(tmp_path))


def test_a_scale_above_the_bound_is_said(golden, tmp_path):
    shutil.copytree(golden / "hf_clip", tmp_path / "m")
    tensors = read_tensors(tmp_path / "m" / "model.safetensors")
    for scale, logged in ((100.0001, False), (150.0, True)):
        tensors["logit_scale"] = np.asarray(np.log(scale), np.float32)
        write_tensors(tmp_path / "m" / "model.safetensors", tensors)
        if logged:
            with pytest.warns(UserWarning, match="logit scale 150 is above 100"):
                load_weights(str(tmp_path / "m"))
        else:
            load_weights(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("group", "field", "value", "named"),
    [("vision_cfg", "width", 1e308, "model.image.width"), ("text_cfg", "width", "64", None),
     ("text_cfg", "context_length", 10**9, "model.text.context_length"),
     ("text_cfg", "layers", 10**6, "model.text.depth"),
     ("text_cfg", "vocab_size", 2.5, "model.text.vocab_size")],
)  # fmt: skip
def test_numbers_of_a_config_that_no_model_has_are_one_line(golden, tmp_path, group, field, value, named):
    shutil.copytree(golden / "openclip_vit_gelu", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["model_cfg"][group][field] = value
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_weights(str(tmp_path / "m"))
    assert named is None or error.value.field == named


def test_towers_keep_their_own_activations(golden, tmp_path):
    # As SigLIP 2 has them: the exact form in the trunk of timm, the tanh form in the text tower.
    weights = load_weights(str(golden / "openclip_siglip"))
    mixed = dataclasses.replace(weights, config=dataclasses.replace(weights.config, text_activation="gelu"))
    assert mixed.digest != weights.digest
    for layout in ("open_clip", "transformers"):
        save_weights(mixed, tmp_path / layout, layout)
        again = load_weights(str(tmp_path / layout))
        assert (again.config.activation, again.config.activation_of_text) == ("gelu_erf", "gelu")
        assert again.digest == mixed.digest


@pytest.mark.parametrize(
    ("name", "form"),
    [("vit_base_patch16_siglip_224", "gelu_erf"), ("vit_base_patch32_siglip_256", "gelu"),
     ("vit_large_patch16_siglip_384", "gelu_erf"), ("vit_large_patch16_siglip_512", "gelu"),
     ("vit_so400m_patch14_siglip_378", "gelu_erf"), ("vit_so400m_patch16_siglip_256", "gelu"),
     ("vit_giantopt_patch16_siglip_384", "gelu")],
)  # fmt: skip
def test_a_trunk_has_the_activation_that_timm_builds(name, form):
    assert trunk_activation(name) == form
