"""FLOPs counted from the model itself, in two ways, to check the closed forms of `flops`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.flops import jaxpr_flops
from clip_jax.models.clip import make_model


def _forward(config: ModelConfig) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    config = dataclasses.replace(config, attention="auto")  # a fused kernel hides its matrix products from the jaxpr
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
    images = jax.ShapeDtypeStruct((1, config.image.image_size, config.image.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)

    def forward(params: Any, images: Any, tokens: Any) -> Any:
        model: Any = nnx.merge(graphdef, params)
        if config.objective != "contrastive":
            return model.logits(images, tokens)
        if config.decoder.depth:
            return model(images, tokens)  # the decoder reads both towers' states
        return model.encode_image(images), model.encode_text(tokens)

    return forward, (nnx.as_pure(state), images, tokens)


def walked_flops(config: ModelConfig) -> int:
    """Count the forward FLOPs per pair with `flops.jaxpr_flops` over the model; no array is allocated."""
    forward, args = _forward(config)
    return jaxpr_flops(forward, *args)


def xla_flops(config: ModelConfig) -> float:
    """Return XLA's cost analysis of the forward pass per pair, before optimization.

    It includes elementwise work. Layers are unrolled, because XLA counts the body of a scan once.
    """
    forward, args = _forward(dataclasses.replace(config, scan_layers=False, remat=False, remat_policy="nothing"))
    analysis = jax.jit(forward).lower(*args).cost_analysis()
    return float((analysis or {})["flops"])
