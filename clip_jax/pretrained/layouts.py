"""Detection of weight layouts (openai, open_clip, transformers)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.config.io import from_dict, to_dict
from clip_jax.errors import ConfigError, UserError, foreign
from clip_jax.models.clip import CLIP
from clip_jax.pretrained import mapping, open_clip, openai, transformers
from clip_jax.pretrained.mapping import WeightEntry
from clip_jax.types import JsonObject, Params

LAYOUTS = ("openai", "open_clip", "transformers")


@dataclass(frozen=True)
class WeightLayout:
    """The layout of a model's files: config, weight entries, and suffixes of keys that hold no parameter."""

    name: str
    config: ModelConfig
    entries: list[WeightEntry]
    ignored: tuple[str, ...]


def detect(tensors: Mapping[str, np.ndarray], config: JsonObject | None, source: str) -> WeightLayout:
    """Detect the layout from the config file if there is one, otherwise from the tensors.

    Raises UserError if it is none of `LAYOUTS`, or if its config is not supported.
    """
    prefix = "text." if "text.token_embedding.weight" in tensors else ""
    with foreign(source, "a config of a model that is known here"):
        return _detect(tensors, config, source, prefix)


def _detect(tensors: Mapping[str, np.ndarray], config: JsonObject | None, source: str, prefix: str) -> WeightLayout:
    if config is not None and ("model_cfg" in config or "vision_cfg" in config):
        shape = _plausible(open_clip.config_of(config.get("model_cfg", config), source), source)
        return WeightLayout("open_clip", shape, open_clip.entries(shape, prefix), openai.IGNORED)
    if config is not None and "model_type" in config:
        shape = _plausible(transformers.config_of(config, source), source)
        return WeightLayout("transformers", shape, transformers.entries(shape), transformers.IGNORED)
    if any(key.startswith(("vision_model.", "text_model.")) for key in tensors):
        raise UserError(field=source, reason="weights in the layout of transformers need their config.json beside them")
    shape = _plausible(openai.infer(tensors, source), source)
    return WeightLayout("openai", shape, openai.entries(shape, prefix), openai.IGNORED)


def _plausible(config: ModelConfig, source: str) -> ModelConfig:
    """Return the config after checking its numbers, from which the entries are listed.

    Raises UserError, naming the field, for a number of another type, that is not finite, or out of range.
    """
    try:
        return from_dict(ModelConfig, to_dict(config), "model.")
    except ConfigError as error:
        raise error.at(source) from None


def abstract_params(config: ModelConfig) -> Params:
    """Return the shapes and dtypes of a model's parameters, allocating nothing."""
    shapes: Any = nnx.as_pure(nnx.state(nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0)))))
    return shapes


def read(tensors: Mapping[str, np.ndarray], layout: WeightLayout, source: str) -> Params:
    """Read the model's parameters as NumPy arrays; raise UserError listing the tensors that do not fit."""
    return mapping.read(tensors, layout.entries, abstract_params(layout.config), source, layout.ignored)


def entries_for(name: str, config: ModelConfig) -> list[WeightEntry]:
    """Return the entries for writing a model in layout ``name``; raise UserError for an unknown layout."""
    if name == "open_clip":
        return open_clip.entries(config, "text." if open_clip.custom_text(config) else "")
    if name == "transformers":
        return transformers.entries(config)
    if name == "openai":
        return openai.entries(config)
    raise UserError(field="layout", value=name, reason=f"must be one of {', '.join(LAYOUTS)}")
