"""Counts of parameters, FLOPs, and bytes moved by matrix products; every count in the package comes from here.

Convention (everywhere in this package): 2 FLOPs per multiply-add; matrix products, convolutions and attention count;
causal masks and padding give no discount; recomputation does not count; the backward pass costs twice the forward.
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
    """Parameter counts.

    ``_no_embed`` excludes token, class and position embeddings. ``total`` includes temperature and logit bias. ``text``
    is the text tower or the predictive head: the caption language model with its prefix map (its output matrix is the
    token embedding), or the bag-of-words classifier, which has no embedding. Running statistics of batch norm do not
    count as parameters.
    """

    total: int
    image: int
    text: int
    image_no_embed: int
    text_no_embed: int
    decoder: int = 0

    @property
    def no_embed(self) -> int:
        """Parameters of the whole model without embeddings."""
        return self.image_no_embed + self.text_no_embed + self.decoder


@dataclass(frozen=True)
class FlopCounts:
    """Forward FLOPs per pair; ``text`` is the text tower or the predictive head, vocabulary product included."""

    image: int
    text: int
    decoder: int = 0

    @property
    def total(self) -> int:
        """FLOPs of both towers and, for CoCa, the decoder."""
        return self.image + self.text + self.decoder


@dataclass(frozen=True)
class TrainingFlops:
    """Training FLOPs of a run, and the share of the contrastive logits in them (0 for predictive objectives)."""

    total: float
    logits: float


def _mlp_params(width: int, mlp: int) -> int:
    return 2 * width * mlp + mlp + width


def _block_params(width: int, mlp: int, layer_scale: float = 0.0) -> int:
    gains = 2 * width if layer_scale else 0
    return 4 * width * width + 4 * width + _mlp_params(width, mlp) + 4 * width + gains  # 4·width: two norms


def _cross_params(width: int, context: int) -> int:
    return 2 * (width * width + width) + 2 * (context * width + width)


def _block_flops(tokens: int, width: int, mlp: int) -> int:
    return 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width


def _cross_flops(queries: int, width: int, tokens: int, context: int) -> int:
    return 4 * queries * width * width + 4 * tokens * context * width + 4 * queries * tokens * width


def _vit_params(config: ModelConfig) -> tuple[int, int]:
    i = config.image
    pooled = config.embed_dim if i.pool == "attentional" else i.width
    count = i.depth * _block_params(i.width, i.mlp_width, i.layer_scale)
    count += 3 * i.patch_size**2 * i.width + i.width * int(i.patch_bias)
    count += 2 * i.width * int(i.norm_pre) + 2 * pooled
    if i.pool == "map":
        count += i.width + _cross_params(i.width, i.width) + 2 * i.width + _mlp_params(i.width, i.mlp_width)
    elif i.pool == "attentional":
        count += i.pool_queries * pooled + _cross_params(pooled, i.width) + 2 * pooled + 2 * i.width
    count += pooled * config.embed_dim * int(i.projection)
    return count, i.tokens * i.width + i.width * int(i.class_token)


def _vit_flops(config: ModelConfig, train: bool) -> int:
    i = config.image
    tokens = i.tokens
    if train and i.patch_dropout:
        tokens -= i.patches - max(1, int(i.patches * (1 - i.patch_dropout)))
    pooled = config.embed_dim if i.pool == "attentional" else i.width
    count = i.depth * _block_flops(tokens, i.width, i.mlp_width) + 2 * i.patches * 3 * i.patch_size**2 * i.width
    if i.pool == "map":
        count += _cross_flops(1, i.width, tokens, i.width) + 4 * i.width * i.mlp_width
    elif i.pool == "attentional":
        count += _cross_flops(i.pool_queries, pooled, tokens, i.width)
    return count + 2 * pooled * config.embed_dim * int(i.projection)


def _resnet_convolutions(config: ModelConfig) -> list[tuple[int, int, int, int]]:
    """List (kernel size, input channels, output channels, output side) of each convolution in order of execution."""
    i = config.image
    half, side = i.width // 2, i.image_size // 2
    out = [(3, 3, half, side), (3, half, half, side), (3, half, i.width, side)]
    channels, side = i.width, i.image_size // 4
    for stage, blocks in enumerate(i.stages):
        width = i.width * 2**stage
        for block in range(blocks):
            after = side // 2 if stage and not block else side
            out += [(1, channels, width, side), (3, width, width, side), (1, width, 4 * width, after)]
            if not block:
                out.append((1, channels, 4 * width, after))
            channels, side = 4 * width, after
    return out


def _resnet_params(config: ModelConfig) -> tuple[int, int]:
    count = sum(k * k * c_in * c_out + 2 * c_out for k, c_in, c_out, _ in _resnet_convolutions(config))
    width = 32 * config.image.width
    return count + 3 * (width * width + width) + (width + 1) * config.embed_dim, config.image.tokens * width


def _resnet_flops(config: ModelConfig, all_queries: bool) -> int:
    count = sum(2 * k * k * c_in * c_out * side**2 for k, c_in, c_out, side in _resnet_convolutions(config))
    width, tokens = 32 * config.image.width, config.image.tokens
    queries = tokens if all_queries else 1
    count += 4 * tokens * width * width + 4 * queries * tokens * width
    return count + 2 * queries * width * (width + config.embed_dim)


def _text_params(config: ModelConfig) -> tuple[int, int]:
    t, e = config.text, config.embed_dim
    if config.objective == "bag_of_words":
        return (e + 1) * t.vocab_size, 0
    if t.encoder == "bag_of_words":
        return t.width * e, t.vocab_size * t.width
    count = t.depth * _block_params(t.width, t.mlp_width, t.layer_scale) + 2 * t.width
    if config.objective == "caption":
        return count + e * config.prefix_tokens * t.width, (t.vocab_size + config.caption_tokens) * t.width
    count += t.width * e * int(t.projection) + e * int(t.projection_bias)
    return count, (t.vocab_size + t.tokens) * t.width + t.width * int(t.pool == "cls")


def _text_flops(config: ModelConfig) -> int:
    t, e = config.text, config.embed_dim
    if config.objective == "bag_of_words":
        return 2 * e * t.vocab_size
    if t.encoder == "bag_of_words":
        return 2 * t.width * e
    if config.objective == "caption":
        return 2 * e * config.prefix_tokens * t.width + caption_flops(config, t.context_length)
    return t.depth * _block_flops(t.tokens, t.width, t.mlp_width) + 2 * t.width * e * int(t.projection)


def caption_flops(config: ModelConfig, length: int) -> int:
    """Count the forward FLOPs of the caption language model over a prefix and a text of ``length`` tokens.

    Args:
      config: the model; its ``prefix_tokens`` are what the image gives.
      length: tokens of the text, the first of which is not predicted.
    """
    t = config.text
    positions = config.prefix_tokens + length - 1
    return t.depth * _block_flops(positions, t.width, t.mlp_width) + 2 * (length - 1) * t.width * t.vocab_size


def params(config: ModelConfig) -> ParamCounts:
    """Count the parameters of a model in closed form (a test compares with the arrays).

    Args:
      config: the model.
    """
    d = config.decoder
    image, image_embed = (_resnet_params if config.image.stages else _vit_params)(config)
    text, text_embed = _text_params(config)
    decoder = 0
    if d.depth:
        cross = _cross_params(d.width, d.width) + _mlp_params(d.width, d.mlp_width) + 6 * d.width  # three norms
        decoder = d.depth * (_block_params(d.width, d.mlp_width) + cross) + (2 + config.text.vocab_size) * d.width
    scalars = 1 + int(config.logit_bias) if config.objective == "contrastive" else 0
    return ParamCounts(
        total=image + image_embed + text + text_embed + decoder + scalars,
        image=image + image_embed,
        text=text + text_embed,
        image_no_embed=image,
        text_no_embed=text,
        decoder=decoder,
    )


def flops_per_sample(config: ModelConfig, *, train: bool = False, all_queries: bool = False) -> FlopCounts:
    """Count the forward FLOPs per image-text pair at the trained context length, in closed form.

    Args:
      config: the model.
      train: exclude the patches that patch dropout removes.
      all_queries: for a ResNet, whose attention pooling has one query (the mean token), count a query for every token,
        as open_clip's published profile does.
    """
    t, d = config.text, config.decoder
    image = _resnet_flops(config, all_queries) if config.image.stages else _vit_flops(config, train)
    text = _text_flops(config)
    decoder = 0
    if d.depth:
        context, tokens = config.image.pool_queries - 1, t.context_length
        cross = _cross_flops(tokens, d.width, context, d.width) + 4 * tokens * d.width * d.mlp_width
        decoder = d.depth * (_block_flops(tokens, d.width, d.mlp_width) + cross) + 2 * tokens * d.width * t.vocab_size
    return FlopCounts(image=image, text=text, decoder=decoder)


def training_flops(config: ModelConfig, samples_seen: int, batch_size: int, freeze: str = "none") -> TrainingFlops:
    """Count the training FLOPs of a run: samples_seen · (3 · forward + 3·2·B·E).

    The second term is the contrastive logits, counted once. A predictive objective compares no pairs and has no such
    term; its logits over the vocabulary are part of the forward FLOPs.

    Args:
      config: the model.
      samples_seen: pairs seen in training, with repetitions.
      batch_size: pairs per global batch.
      freeze: the tower that runs forward only: none, image or text.
    """
    logits = float(samples_seen) * 6 * batch_size * config.embed_dim if config.objective == "contrastive" else 0.0
    forward = flops_per_sample(config, train=freeze != "image")
    saved = 2.0 * getattr(forward, freeze) if freeze != "none" else 0.0
    return TrainingFlops(samples_seen * (3.0 * forward.total - saved) + logits, logits)


@dataclass(frozen=True)
class Work:
    """FLOPs of a program's matrix products and convolutions, and the bytes of their operands and results.

    The bytes are the memory traffic if all other operations are fused into these.
    """

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Work:
        return Work(self.flops * times, self.bytes * times)


def jaxpr_flops(function: Callable[..., object], *args: object) -> int:
    """Count the FLOPs of ``function(*args)`` as `jaxpr_work` does.

    Args:
      function: what is traced; it is not run.
      args: its arguments, arrays or `jax.ShapeDtypeStruct`.
    """
    return jaxpr_work(function, *args).flops


def jaxpr_work(function: Callable[..., object], *args: object) -> Work:
    """Count the FLOPs and bytes of ``function(*args)`` by walking its jaxpr, recomputation included.

    A scan counts its length times; inside shard_map one device's share is counted; of a ``cond``, the branch with the
    most FLOPs.

    Args:
      function: what is traced; it is not run.
      args: its arguments, arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: a ``while`` loop of unknown length contains counted operations.
    """
    import jax

    return _walk(jax.make_jaxpr(function)(*args).jaxpr)


def _walk(jaxpr: Any) -> Work:
    total = Work()
    for eqn in jaxpr.eqns:
        name, p = eqn.primitive.name, eqn.params
        if name in ("dot_general", "conv_general_dilated"):
            if name == "dot_general":
                (contracted, _), _ = p["dimension_numbers"]
                depth = [eqn.invars[0].aval.shape[i] for i in contracted]
            else:
                kernel, spec = eqn.invars[1].aval.shape, p["dimension_numbers"].rhs_spec
                depth = [kernel[i] for i in spec[1:]]
            moved = (v.aval.size * v.aval.dtype.itemsize for v in (*eqn.invars, *eqn.outvars))
            total += Work(2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(depth), sum(moved))
        elif name == "scan":
            total += _walk(p["jaxpr"].jaxpr) * p["length"]
        elif name == "cond":
            total += max((_walk(branch.jaxpr) for branch in p["branches"]), key=lambda work: work.flops)
        else:
            inner = sum((_walk(sub) for value in p.values() for sub in _jaxprs(value)), Work())
            if name == "while" and inner.flops:
                raise ValueError("cannot count a while loop of unknown length")
            total += inner
    return total


def _jaxprs(value: Any) -> list[Any]:
    jaxprs = []
    for item in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(item, "jaxpr", item)
        if hasattr(inner, "eqns"):
            jaxprs.append(inner)
    return jaxprs
