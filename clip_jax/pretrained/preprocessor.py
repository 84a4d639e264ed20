"""Conversion of transformers' ``preprocessor_config.json`` (or that part of ``processor_config.json``).

Every field is applied or rejected by name.
"""

from __future__ import annotations

from clip_jax.config import PixelConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.errors import UserError, one_of
from clip_jax.pretrained.files import read_json
from clip_jax.pretrained.names import Files
from clip_jax.types import JsonObject

RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's codes
SIGLIP_MEAN_STD = (0.5, 0.5, 0.5)  # mean and standard deviation of SigLIP's image normalization
# transformers' class -> whether it is SigLIP's
PROCESSOR_CLASSES = {"CLIPImageProcessor": False, "CLIPFeatureExtractor": False, "SiglipImageProcessor": True}
# fields that do not affect pixels
PIXEL_NEUTRAL_FIELDS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "data_format", "input_data_format", "device",
    "return_tensors", "disable_grouping", "_valid_processor_keys", "auto_map", "use_fast", "_processor_class",
    "model_input_names",
}  # fmt: skip


def find_preprocessor(files: Files) -> tuple[JsonObject, str] | None:
    """Return the fields of the image preprocessing and the file they are in; None without such a file.

    They are ``image_processor`` in ``processor_config.json``, where transformers writes them since version 5 and looks
    first, or ``preprocessor_config.json``.
    """
    if files.processor is not None:
        values = read_json(files.processor).get("image_processor")
        if isinstance(values, dict):
            return values, str(files.processor)
        if values is not None:
            reason = "must be a group of fields"
            raise UserError(source=files.processor, field="image_processor", value=values, reason=reason)
    return None if files.preprocessor is None else (read_json(files.preprocessor), str(files.preprocessor))


def read_preprocessor(values: JsonObject, size: int, siglip: bool, source: str) -> Preprocess:
    """Convert a ``preprocessor_config.json`` to the preprocessing of images of ``size`` pixels per side.

    Args:
      values: the content of the file.
      size: input size of the image tower in pixels per side.
      siglip: whether a file that names no class has SigLIP's defaults.
      source: the file, for error messages.

    Raises:
      UserError: a field is unknown or its value is not supported; ``field`` names it.
    """
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "").removesuffix("Fast")
    if kind:
        one_of("image_processor_type", kind, PROCESSOR_CLASSES, source)
    siglip = PROCESSOR_CLASSES.get(kind, siglip)
    left = {k: v for k, v in values.items() if k not in PIXEL_NEUTRAL_FIELDS and v is not None}
    for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if left.pop(name, True) is not True:
            raise UserError(source=source, field=name, value=values[name], reason="only true is supported")
    factor = left.pop("rescale_factor", 1 / 255)
    if not isinstance(factor, (int, float)) or abs(factor * 255 - 1) > 1e-6:
        raise UserError(source=source, field="rescale_factor", value=factor, reason="only 1/255 is supported")
    resample = left.pop("resample", 3)
    if resample not in RESAMPLE:
        reason = "only 2 (bilinear) and 3 (bicubic) are supported"
        raise UserError(source=source, field="resample", value=resample, reason=reason)
    mode = _mode(left, size, siglip, source)
    usual = (SIGLIP_MEAN_STD, SIGLIP_MEAN_STD) if siglip else (PixelConfig.mean, PixelConfig.std)
    mean, std = (left.pop(f"image_{name}", value) for name, value in zip(("mean", "std"), usual, strict=True))
    for name in sorted(n for n, value in left.items() if value is not False):  # a field set to false has no effect
        raise UserError(source=source, field=name, value=left[name], reason="is not supported")
    pixels = {"mean": mean, "std": std, "resize_mode": mode, "interpolation": RESAMPLE[resample]}
    return Preprocess.from_config(pixels, size, source, "image_")


def _mode(left: JsonObject, size: int, siglip: bool, source: str) -> str:
    """Return the resize mode to ``size``, and remove the fields that determine it from ``left``."""
    square = {"height": size, "width": size}
    asked = left.pop("size", square if siglip else {"shortest_edge": size})
    to_square = left.pop("default_to_square", siglip)  # the meaning of a size given as one number
    if not isinstance(to_square, bool):
        raise UserError(source=source, field="default_to_square", value=to_square, reason="must be true or false")
    if isinstance(asked, int):  # the form of older files
        asked = {"height": asked, "width": asked} if to_square else {"shortest_edge": asked}
    if asked == {"shortest_edge": size}:
        mode = "shortest"
    elif asked == square:
        mode = "squash"
    else:
        reason = f"must be {{'shortest_edge': {size}}} or {square}, as the model's"
        raise UserError(source=source, field="size", value=asked, reason=reason)
    cropped = left.pop("do_center_crop", not siglip)
    crop = left.pop("crop_size", square)
    if mode == "shortest" and cropped is not True:
        reason = "must be true with size.shortest_edge"
        raise UserError(source=source, field="do_center_crop", value=cropped, reason=reason)
    if cropped and crop not in (size, square):
        raise UserError(source=source, field="crop_size", value=crop, reason=f"must be {square}, as the model's")
    return mode


def write_preprocessor(preprocess: Preprocess) -> JsonObject:
    """Return the content of transformers' ``preprocessor_config.json``; raise UserError for padding, which it lacks."""
    size, square = preprocess.size, {"height": preprocess.size, "width": preprocess.size}
    if preprocess.resize_mode == "longest":
        reason = "has no form in its preprocessing"
        raise UserError(source="export to transformers", field="resize_mode", value="longest", reason=reason)
    if preprocess.resize_mode == "squash":
        shape: JsonObject = {"image_processor_type": "SiglipImageProcessor", "size": square}
    else:
        shape = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size}}
        shape |= {"do_center_crop": True, "crop_size": square}
    codes = {name: code for code, name in RESAMPLE.items()}
    return {
        **shape, "do_resize": True, "resample": codes[preprocess.interpolation], "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }  # fmt: skip
