"""Loading published weights, and saving models in published layouts."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_jax.config import ModelConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.errors import UserError, foreign
from clip_jax.pretrained import layouts, mapping, open_clip, transformers
from clip_jax.pretrained.files import read_json, read_tensors, write_tensors
from clip_jax.pretrained.names import Fetch, Files, find, hub_fetch
from clip_jax.pretrained.preprocessor import SIGLIP_MEAN_STD, find_preprocessor, read_preprocessor, write_preprocessor
from clip_jax.pretrained.tokenizer_export import open_clip_settings, tokenizer_files
from clip_jax.pretrained.tokenizer_files import tokenizer_of
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import disk_errors, mkdir
from clip_jax.types import JsonObject, Params

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A model as read from files: config, parameters (nested NumPy arrays), image preprocessing and tokenizer.

    ``tokenizer`` is None if the files do not say which one the model was trained with.
    """

    name: str
    config: ModelConfig
    params: Params
    preprocess: Preprocess
    tokenizer: Tokenizer | None

    @property
    def digest(self) -> str:
        """Hash of the parameters and of the model around them, 16 hex digits (`digest`)."""
        return digest(self.params, self.config)


def digest(params: Params, config: ModelConfig) -> str:
    """Return a hash of the parameters and the model, 16 hex digits.

    It depends on the parameters' names, shapes, dtypes and values, and on the model around them, such as its
    activation. It does not depend on how the model runs (scan, rematerialization, compute dtype) or was initialized.
    """
    shape = dataclasses.replace(
        config, scan_layers=True, remat=False, remat_policy="nothing", compute_dtype="float32", text_param_dtype="",
        init_temperature=0.07, max_logit_scale=100.0,
    )  # fmt: skip
    # under the field's former name, so that digests of earlier versions stay valid
    text = str(shape).replace("parametrization=Parametrization", "parametrisation=Parametrisation")
    sha = hashlib.sha256(f"{text}{shape.text_activation}\n".encode())
    for name, value in sorted(mapping.flatten(params).items()):
        array = np.asarray(value)
        sha.update(f"{name} {array.shape} {array.dtype}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def load_weights(name: str, *, fetch: Fetch = hub_fetch) -> Weights:
    """Read a published model, or weights from a path.

    Args:
      name: ``openai/ViT-B-32``, ``open_clip:ViT-B-16/laion2b_s34b_b88k``, ``hf:openai/clip-vit-base-patch32``, a
        ``.safetensors`` file, or a folder with one, its config beside it.
      fetch: function that gets files from the hub; by default through its cache.

    Raises:
      UserError: there is no such model, a file is broken or a pickle, the config is not supported, or the weights do
        not fit it (missing, unexpected and wrongly shaped tensors are listed).
    """
    files = find(name, fetch)
    logger.info("reading %s", files.weights)
    tensors = read_tensors(files.weights)
    config = read_json(files.config) if files.config else None
    if config is not None and not {"model_cfg", "vision_cfg", "model_type"} & set(config):
        config = None  # a config of something else, such as a run; the shape is inferred from the weights
    layout = layouts.detect(tensors, config, str(files.config or files.weights))
    if layout.name == "openai" and "input_resolution" not in tensors:  # the released archives have that key
        warnings.warn(
            f"{files.weights}: no config beside it, so read as a released model: QuickGELU, heads of 64", stacklevel=2
        )
    params = layouts.read(tensors, layout, str(files.weights))
    _warn_of_high_scale(name, params, layout.config.max_logit_scale)
    of_pictures = files.processor or files.preprocessor or files.config or files.weights
    with foreign(of_pictures, "a preprocessing that is known here"):
        preprocess = _preprocess(layout, config or {}, files)
    with foreign(files.tokenizer or files.config or files.weights, "a tokenizer that is known here"):
        tokenizer = tokenizer_of(layout.name, layout.config, config or {}, files)
    return Weights(name, layout.config, params, preprocess, tokenizer)


def _warn_of_high_scale(name: str, params: Params, highest: float) -> None:
    scale = float(np.exp(np.float64(params["logit_scale"])))
    if scale > highest * 1.001:  # the released models were trained up to the bound and reach it
        message = f"{name}: its logit scale {scale:.5g} is above {highest:g}, which is used in its place"
        warnings.warn(message, stacklevel=3)


def _preprocess(layout: layouts.WeightLayout, config: JsonObject, files: Files) -> Preprocess:
    size = layout.config.image.image_size
    if "preprocess_cfg" in config:
        return Preprocess.from_config(config["preprocess_cfg"], size, str(files.config))
    siglip = layout.config.logit_bias
    fields_and_source = find_preprocessor(files) if layout.name == "transformers" else None
    if fields_and_source is None:
        return Preprocess(size, "squash", mean=SIGLIP_MEAN_STD, std=SIGLIP_MEAN_STD) if siglip else Preprocess(size)
    values, source = fields_and_source
    return read_preprocessor(values, size, siglip, source)


def save_weights(weights: Weights, folder: str | Path, layout: str = "open_clip") -> None:
    """Write weights and config for open_clip (``local-dir:FOLDER``) or transformers (``from_pretrained``).

    Args:
      weights: the model.
      folder: where to write; created if missing. The tokenizer is written there too, for the two
        libraries (`tokenizer_files`) and in this package's own format, which keeps the repair of texts.
      layout: ``open_clip`` or ``transformers``.

    Raises:
      UserError: the layout is unknown or cannot express the model, or the folder cannot be written.
    """
    folder = Path(folder)
    if layout == "open_clip":
        names = ("open_clip_config.json", "open_clip_model.safetensors")
        configs = {
            names[0]: {
                "model_cfg": open_clip.config_to(weights.config), "preprocess_cfg": weights.preprocess.to_config(),
            }
        }  # fmt: skip
    elif layout == "transformers":
        names = ("config.json", "model.safetensors")
        configs = {
            "preprocessor_config.json": write_preprocessor(weights.preprocess),
            names[0]: transformers.config_to(weights.config),
        }
    else:
        raise UserError(field="layout", value=layout, reason="must be open_clip or transformers")
    if weights.tokenizer is not None:
        configs |= tokenizer_files(weights.tokenizer, weights.config.text.causal)
        if layout == "open_clip":
            configs[names[0]]["model_cfg"]["text_cfg"] |= open_clip_settings(weights.tokenizer)
    tensors = mapping.write(weights.params, layouts.entries_for(layout, weights.config))
    with disk_errors(folder):
        mkdir(folder)
    write_tensors(folder / names[1], tensors)
    if weights.tokenizer is not None:
        weights.tokenizer.save(folder / "clip_jax_tokenizer.json")
    for name, config in configs.items():
        write_json(folder / name, config)
