"""preprocessor_config.json of transformers, field by field."""

import json
import shutil

import pytest

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.errors import UserError
from clip_jax.pretrained.load import load_weights
from clip_jax.pretrained.preprocessor import SIGLIP_MEAN_STD, read_preprocessor, write_preprocessor

from ..user_errors import raises_user_error

CLIP = write_preprocessor(Preprocess(16))
SIGLIP = write_preprocessor(Preprocess(16, "squash", mean=SIGLIP_MEAN_STD, std=SIGLIP_MEAN_STD))


def read(values, siglip=False):
    return read_preprocessor(values, 16, siglip, "preprocessor_config.json")


def test_write_preprocessor_round_trips():
    for preprocess in (Preprocess(16), Preprocess(16, "squash", "bilinear", SIGLIP_MEAN_STD, SIGLIP_MEAN_STD)):
        assert read(write_preprocessor(preprocess)) == preprocess
    assert read({}) == Preprocess(16)
    assert read({}, siglip=True) == Preprocess(16, "squash", mean=SIGLIP_MEAN_STD, std=SIGLIP_MEAN_STD)
    assert read({"image_processor_type": "SiglipImageProcessorFast"}) == read(SIGLIP)
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 16, "crop_size": 16, "do_center_crop": True}
    assert read(old) == Preprocess(16)
    assert read(old | {"default_to_square": False}) == Preprocess(16)
    assert read({"size": 16, "default_to_square": True, "image_processor_type": "SiglipImageProcessorFast"}) == read(
        SIGLIP
    )
    assert read(SIGLIP | {"default_to_square": True}) == read(SIGLIP)  # said by every file of a Fast class
    assert read(SIGLIP | {"crop_size": None, "do_pad": None, "do_center_crop": None}) == read(SIGLIP)


@pytest.mark.parametrize(
    ("base", "change"),
    [(CLIP, {"size": {"shortest_edge": 20}}), (CLIP, {"size": {"longest_edge": 16}}), (CLIP, {"resample": 1}),
     (CLIP, {"resample": 0}), (CLIP, {"do_normalize": False}), (CLIP, {"do_center_crop": False}),
     (CLIP, {"do_resize": False}), (CLIP, {"do_rescale": False}), (CLIP, {"rescale_factor": 1 / 127.5}),
     (CLIP, {"crop_size": {"height": 8, "width": 8}}), (CLIP, {"image_processor_type": "ViTImageProcessor"}),
     (CLIP, {"do_pad": True}), (CLIP, {"do_convert_rgb": False}), (CLIP, {"sharpen": 2}),
     (CLIP, {"default_to_square": "yes"}),
     (SIGLIP, {"size": {"height": 16, "width": 20}}), (SIGLIP, {"do_center_crop": True, "crop_size": 8}),
     (CLIP, {"image_mean": 5}), (CLIP, {"image_mean": ["a"] * 3}), (CLIP, {"image_std": [1, 1]}),
     (CLIP, {"image_std": [1, 1, 0]})],
)  # fmt: skip
def test_read_preprocessor_unsupported_field_is_refused(base, change):
    with pytest.raises(UserError) as error:
        read(base | change)
    assert error.value.field in change


@pytest.mark.parametrize("mean", [5, [1], [1e400] * 3, None])
def test_preprocess_of_a_wrong_open_clip_config_is_refused(mean):
    with raises_user_error(field="preprocess_cfg.mean"):
        Preprocess.from_config({"mean": mean}, 16, "open_clip_config.json")


def test_find_preprocessor_prefers_processor_config(golden, tmp_path):
    # As transformers 5 writes and reads it.
    folder = tmp_path / "m"
    shutil.copytree(golden / "hf_siglip", folder)
    assert load_weights(str(folder)).preprocess.interpolation == "bicubic"
    size = load_weights(str(folder)).preprocess.size
    fields = write_preprocessor(Preprocess(size, "squash", "bilinear", SIGLIP_MEAN_STD, SIGLIP_MEAN_STD))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "x", "image_processor": fields}))
    assert load_weights(str(folder)).preprocess.interpolation == "bilinear"
    for values, field in ((fields | {"resample": 1}, "resample"), ([1], "image_processor")):
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
        with raises_user_error(field=field):
            load_weights(str(folder))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "x"}))  # as version 4 writes it
    assert load_weights(str(folder)).preprocess.interpolation == "bicubic"
