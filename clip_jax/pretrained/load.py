"""Published weights in, ours out."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.config import ModelConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.errors import UserError, foreign
from clip_jax.pretrained import layouts, mapping, open_clip, transformers
from clip_jax.pretrained.files import read_json, read_tensors, write_json, write_tensors
from clip_jax.pretrained.names import Fetch, Files, find, hub_fetch
from clip_jax.pretrained.preprocessor import HALF, find_preprocessor, read_preprocessor, write_preprocessor
from clip_jax.pretrained.tokenizer_files import tokenizer_of
from clip_jax.storage.paths import disk_errors, mkdir


@dataclass(frozen=True)
class Weights:
    """A model as files give it: shape, parameters (NumPy, nested), and what turns pictures and texts into input.

    ``tokenizer`` is None when nothing says which one the model was trained with.
    """

    name: str
    config: ModelConfig
    params: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Tokenizer | None

    @property
    def digest(self) -> str:
        """16 hex digits of the parameters and of the function they are used in."""
        return digest(self.params, self.config)


def digest(params: Any, config: ModelConfig) -> str:
    """16 hex digits that change when a name, shape, dtype or number of the parameters does, or the model around them
    (its activation, say); how it runs (scanned, recomputed, in which precision) and how it began change nothing."""
    shape = dataclasses.replace(
        config, scan_layers=True, remat=False, remat_policy="nothing", compute_dtype="float32", text_param_dtype="",
        init_temperature=0.07, max_logit_scale=100.0,
    )  # fmt: skip
    sha = hashlib.sha256(f"{shape}{shape.text_activation}\n".encode())
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
      fetch: where files of the hub come from; its cache by default.

    Raises:
      UserError: no such model, a file that is broken or a pickle, a config that asks for what is not supported, or
        weights that do not fit (every missing, unexpected or differently shaped tensor is listed).
    """
    files = find(name, fetch)
    tensors = read_tensors(files.weights)
    config = read_json(files.config) if files.config else None
    if config is not None and not {"model_cfg", "vision_cfg", "model_type"} & set(config):
        config = None  # of something else, such as a run; the weights tell their shape themselves
    layout = layouts.detect(tensors, config, str(files.config or files.weights))
    if layout.name == "openai" and "input_resolution" not in tensors:  # not the released archive, which has that key
        warnings.warn(
            f"{files.weights}: no config beside it, so read as a released model: QuickGELU, heads of 64", stacklevel=2
        )
    params = layouts.read(tensors, layout, str(files.weights))
    _tell_scale(name, params, layout.config.max_logit_scale)
    of_pictures = files.processor or files.preprocessor or files.config or files.weights
    with foreign(of_pictures, "a preprocessing that is known here"):
        preprocess = _preprocess(layout, config or {}, files)
    with foreign(files.tokenizer or files.config or files.weights, "a tokenizer that is known here"):
        tokenizer = tokenizer_of(layout.name, layout.config, config or {}, files)
    return Weights(name, layout.config, params, preprocess, tokenizer)


def _tell_scale(name: str, params: Mapping[str, Any], highest: float) -> None:
    scale = float(np.exp(np.float64(params["logit_scale"])))
    if scale > highest * 1.001:  # the released models were trained up to the bound and lie on it
        told = f"{name}: its logit scale {scale:.5g} is above {highest:g}, which is used in its place"
        warnings.warn(told, stacklevel=3)


def _preprocess(layout: layouts.Layout, config: Mapping[str, Any], files: Files) -> Preprocess:
    size = layout.config.image.image_size
    if "preprocess_cfg" in config:
        return Preprocess.from_config(config["preprocess_cfg"], size, str(files.config))
    siglip = layout.config.logit_bias
    found = find_preprocessor(files) if layout.name == "transformers" else None
    if found is None:
        return Preprocess(size, "squash", mean=HALF, std=HALF) if siglip else Preprocess(size)
    values, source = found
    return read_preprocessor(values, size, siglip, source)


def save_weights(weights: Weights, folder: str | Path, layout: str = "open_clip") -> None:
    """Write safetensors and config that open_clip (``local-dir:FOLDER``) or transformers (``from_pretrained``) load.

    The tokenizer goes beside them in our own format. Raises UserError when the layout cannot express the model.
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
        raise UserError(f"layout={layout!r}: must be open_clip or transformers")
    tensors = mapping.write(weights.params, layouts.entries_for(layout, weights.config))
    with disk_errors(folder):
        mkdir(folder)
    write_tensors(folder / names[1], tensors)
    if weights.tokenizer is not None:
        weights.tokenizer.save(folder / "clip_jax_tokenizer.json")
    for name, config in configs.items():
        write_json(folder / name, config)
