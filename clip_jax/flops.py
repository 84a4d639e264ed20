"""The one place that counts: parameters by tower, FLOPs, device peaks.

Convention (everywhere in this package): 2 FLOPs a multiply-add; matrix products, convolutions and attention;
no discount for causal masks or padding; recomputation never counts; the backward pass costs twice the forward.
Importing this module loads no jax.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clip_jax.config import ModelConfig


@dataclass(frozen=True)
class ParamCounts:
    """Parameters; ``_no_embed`` leaves out token, class and position embeddings. ``total`` has the temperature."""

    total: int
    image: int
    text: int
    image_no_embed: int
    text_no_embed: int

    @property
    def no_embed(self) -> int:
        """Both towers without embeddings."""
        return self.image_no_embed + self.text_no_embed


@dataclass(frozen=True)
class FlopCounts:
    """Forward FLOPs of one pair."""

    image: int
    text: int

    @property
    def total(self) -> int:
        """Both towers."""
        return self.image + self.text


@dataclass(frozen=True)
class TrainingFlops:
    """Training FLOPs of a run, and the part of the contrastive logits in it."""

    total: float
    logits: float


def _block_params(width: int, mlp: int) -> int:
    attention = 4 * width * width + 4 * width
    return attention + 2 * width * mlp + mlp + width + 4 * width  # the last: two norms


def _block_flops(tokens: int, width: int, mlp: int) -> int:
    return 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width


def params(config: ModelConfig) -> ParamCounts:
    """Parameters of a model, in closed form (a test counts the arrays)."""
    i, t = config.image, config.text
    image = i.depth * _block_params(i.width, i.mlp_width) + 3 * i.patch_size**2 * i.width + 4 * i.width
    image += i.width * config.embed_dim
    image_embed = i.width + i.tokens * i.width
    text = t.depth * _block_params(t.width, t.mlp_width) + 2 * t.width + t.width * config.embed_dim
    text_embed = (t.vocab_size + t.context_length) * t.width
    return ParamCounts(
        total=image + image_embed + text + text_embed + 1,
        image=image + image_embed,
        text=text + text_embed,
        image_no_embed=image,
        text_no_embed=text,
    )


def flops_per_sample(config: ModelConfig) -> FlopCounts:
    """Forward FLOPs of one image-text pair at the trained context length, in closed form."""
    i, t = config.image, config.text
    patches = i.tokens - 1
    image = i.depth * _block_flops(i.tokens, i.width, i.mlp_width)
    image += 2 * patches * 3 * i.patch_size**2 * i.width + 2 * i.width * config.embed_dim
    text = t.depth * _block_flops(t.context_length, t.width, t.mlp_width) + 2 * t.width * config.embed_dim
    return FlopCounts(image=image, text=text)


def training_flops(config: ModelConfig, samples_seen: int, batch_size: int) -> TrainingFlops:
    """samples_seen · (3 · forward + 3·2·B·E), the second term being the logits, counted once."""
    logits = float(samples_seen) * 6 * batch_size * config.embed_dim
    return TrainingFlops(3.0 * samples_seen * flops_per_sample(config).total + logits, logits)


def jaxpr_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of the matrix products and convolutions in ``function(*args)``, by a walk over its jaxpr.

    ``args`` may be abstract (`jax.ShapeDtypeStruct`). A scan counts its length times; inside shard_map one
    device's share is counted; a ``while`` of unknown length raises ValueError.
    """
    import jax

    return _walk(jax.make_jaxpr(function)(*args).jaxpr)


def _walk(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, p = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = p["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, spec = eqn.invars[1].aval.shape, p["dimension_numbers"].rhs_spec
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel[i] for i in spec[1:])
        elif name == "scan":
            total += p["length"] * _walk(p["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(_walk(branch.jaxpr) for branch in p["branches"])
        else:
            inner = sum(_walk(sub) for value in p.values() for sub in _jaxprs(value))
            if name == "while" and inner:
                raise ValueError("cannot count a while loop of unknown length")
            total += inner
    return total


def _jaxprs(value: Any) -> list[Any]:
    found = []
    for item in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(item, "jaxpr", item)
        if hasattr(inner, "eqns"):
            found.append(inner)
    return found


# Dense peaks of one device, FLOP/s, from the makers' data sheets: (bfloat16, float32). The float32 column of the
# NVIDIA parts is TF32, which is what XLA uses for float32 products at default precision.
PEAKS = (
    ("b200", 2250e12, 1100e12),
    ("h200", 989e12, 494e12),
    ("h100", 989e12, 494e12),
    ("a100", 312e12, 156e12),
    ("l40s", 362e12, 183e12),
    ("v100", 125e12, 15.7e12),
    ("tpu v6 lite", 918e12, None),
    ("tpu v5p", 459e12, None),
    ("tpu v5 lite", 197e12, None),
    ("tpu v5e", 197e12, None),
    ("tpu v4", 275e12, None),
    ("tpu v3", 61.5e12, None),  # a device is one of the chip's two cores
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device for a compute dtype; None when unknown (a CPU, a new part), never zero."""
    kind = device_kind.lower()
    for name, half, single in PEAKS:
        if name in kind:
            return single if dtype == "float32" else half
    return None
