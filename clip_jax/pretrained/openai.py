"""The layout of the released CLIP weights, which open_clip also uses: entries, and configs inferred from weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clip_jax.config import DecoderConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.config.model import Activation
from clip_jax.errors import UserError
from clip_jax.pretrained.mapping import WeightEntry

IGNORED = ("input_resolution", "context_length", "vocab_size", "num_batches_tracked")


def norm(path: str, key: str, layer: int | None = None) -> list[WeightEntry]:
    """Return the entries of a layer norm."""
    return [
        WeightEntry(f"{path}/scale", (f"{key}.weight",), layer=layer),
        WeightEntry(f"{path}/bias", (f"{key}.bias",), layer=layer),
    ]


def dense(path: str, keys: str | tuple[str, ...], layer: int | None = None, bias: bool = True) -> list[WeightEntry]:
    """Return the entries of a dense layer; several source layers can be joined into one of ours."""
    names = (keys,) if isinstance(keys, str) else keys
    out = [WeightEntry(f"{path}/kernel", tuple(f"{k}.weight" for k in names), "linear", layer)]
    return [*out, WeightEntry(f"{path}/bias", tuple(f"{k}.bias" for k in names), layer=layer)] if bias else out


def packed_attention(path: str, key: str, layer: int | None = None) -> list[WeightEntry]:
    """Return the entries of cross-attention whose q, k, v are packed into one source tensor."""
    out = []
    for i, name in enumerate("qkv"):
        out.append(WeightEntry(f"{path}/{name}/kernel", (f"{key}.in_proj_weight",), "linear", layer, (i, 3)))
        out.append(WeightEntry(f"{path}/{name}/bias", (f"{key}.in_proj_bias",), layer=layer, part=(i, 3)))
    return out + dense(f"{path}/out", f"{key}.out_proj", layer)


def unpacked_attention(path: str, key: str, layer: int | None = None) -> list[WeightEntry]:
    """Return the entries of cross-attention to a context of another width: three weights and one packed bias."""
    out = []
    for i, name in enumerate("qkv"):
        out.append(WeightEntry(f"{path}/{name}/kernel", (f"{key}.{name}_proj_weight",), "linear", layer))
        out.append(WeightEntry(f"{path}/{name}/bias", (f"{key}.in_proj_bias",), layer=layer, part=(i, 3)))
    return out + dense(f"{path}/out", f"{key}.out_proj", layer)


def block(path: str, key: str, layer: int, scaled: bool) -> list[WeightEntry]:
    """Return the entries of one residual attention block."""
    out = norm(f"{path}/ln_1", f"{key}.ln_1", layer) + norm(f"{path}/ln_2", f"{key}.ln_2", layer)
    out.append(WeightEntry(f"{path}/qkv/kernel", (f"{key}.attn.in_proj_weight",), "linear", layer))
    out.append(WeightEntry(f"{path}/qkv/bias", (f"{key}.attn.in_proj_bias",), layer=layer))
    out += dense(f"{path}/out", f"{key}.attn.out_proj", layer)
    out += dense(f"{path}/fc", f"{key}.mlp.c_fc", layer) + dense(f"{path}/proj", f"{key}.mlp.c_proj", layer)
    if scaled:
        out += [WeightEntry(f"{path}/scale_{i}", (f"{key}.ls_{i}.gamma",), layer=layer) for i in (1, 2)]
    return out


def text_entries(config: ModelConfig, prefix: str) -> list[WeightEntry]:
    """Return the entries of the text tower; ``prefix`` is "" or "text."."""
    c = config.text
    out = [
        WeightEntry("text/token", (f"{prefix}token_embedding.weight",)),
        WeightEntry("text/position", (f"{prefix}positional_embedding",)),
    ]
    if c.pool == "cls":
        out.append(WeightEntry("text/class_token", (f"{prefix}cls_emb",)))
    for i in range(c.depth):
        out += block("text/blocks/blocks", f"{prefix}transformer.resblocks.{i}", i, bool(c.layer_scale))
    out += norm("text/ln_final", f"{prefix}ln_final")
    if c.projection_bias:
        out.append(WeightEntry("text/projection", (f"{prefix}text_projection.weight",), "linear"))
        out.append(WeightEntry("text/projection_bias", (f"{prefix}text_projection.bias",)))
    elif c.projection:
        out.append(WeightEntry("text/projection", (f"{prefix}text_projection",)))
    return out


def vit_entries(config: ModelConfig) -> list[WeightEntry]:
    """Return the entries of the vision transformer, including CoCa's pooler."""
    c = config.image
    out = [
        WeightEntry("image/patch/kernel", ("visual.conv1.weight",), "conv"),
        WeightEntry("image/class_token", ("visual.class_embedding",)),
        WeightEntry("image/position", ("visual.positional_embedding",)),
    ]
    out += norm("image/ln_pre", "visual.ln_pre") if c.norm_pre else []
    for i in range(c.depth):
        out += block("image/blocks/blocks", f"visual.transformer.resblocks.{i}", i, bool(c.layer_scale))
    if c.pool == "attentional":
        out.append(WeightEntry("image/head/query", ("visual.attn_pool.query",)))
        out += norm("image/head/norm_query", "visual.attn_pool.ln_q")
        out += norm("image/head/norm_context", "visual.attn_pool.ln_k")
        attention = packed_attention if c.width == config.embed_dim else unpacked_attention
        out += attention("image/head/attention", "visual.attn_pool.attn")
    out += norm("image/ln_post", "visual.ln_post")
    out.append(WeightEntry("image/projection", ("visual.proj",)))
    return out


def _batch_norm(path: str, key: str) -> list[WeightEntry]:
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return [WeightEntry(f"{path}/{name}", (f"{key}.{source_name}",)) for name, source_name in names.items()]


def resnet_entries(config: ModelConfig) -> list[WeightEntry]:
    """Return the entries of the modified ResNet with its running statistics."""
    out = []
    for i in (1, 2, 3):
        out.append(WeightEntry(f"image/conv{i}/kernel", (f"visual.conv{i}.weight",), "conv"))
        out += _batch_norm(f"image/bn{i}", f"visual.bn{i}")
    for stage, blocks in enumerate(config.image.stages):
        for b in range(blocks):
            path, key = f"image/stage{stage + 1}_{b}", f"visual.layer{stage + 1}.{b}"
            for i in (1, 2, 3):
                out.append(WeightEntry(f"{path}/conv{i}/kernel", (f"{key}.conv{i}.weight",), "conv"))
                out += _batch_norm(f"{path}/bn{i}", f"{key}.bn{i}")
            if not b:  # the first block of each stage changes the channels
                out.append(WeightEntry(f"{path}/conv_shortcut/kernel", (f"{key}.downsample.0.weight",), "conv"))
                out += _batch_norm(f"{path}/bn_shortcut", f"{key}.downsample.1")
    out.append(WeightEntry("image/pool/position", ("visual.attnpool.positional_embedding",)))
    for name, source_name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "c_proj")):
        out += dense(f"image/pool/{name}", f"visual.attnpool.{source_name}")
    return out


def decoder_entries(config: ModelConfig) -> list[WeightEntry]:
    """Return the entries of CoCa's multimodal decoder."""
    out = []
    for i in range(config.decoder.depth):
        path, key = "decoder/blocks/blocks", f"text_decoder.cross_attn.{i}"
        out += block(f"{path}/own", f"text_decoder.resblocks.{i}", i, False)
        for name, source_name in (("ln_1", "ln_1"), ("ln_context", "ln_1_kv"), ("ln_2", "ln_2")):
            out += norm(f"{path}/cross/{name}", f"{key}.{source_name}", i)
        out += packed_attention(f"{path}/cross/attention", f"{key}.attn", i)
        out += dense(f"{path}/cross/mlp/fc", f"{key}.mlp.c_fc", i)
        out += dense(f"{path}/cross/mlp/proj", f"{key}.mlp.c_proj", i)
    out += norm("decoder/ln_final", "text_decoder.ln_final")
    return [*out, WeightEntry("decoder/projection", ("text_decoder.text_projection",))]


def entries(config: ModelConfig, prefix: str = "") -> list[WeightEntry]:
    """Return the entries of all tensors of a model; ``prefix`` is that of the text tower's keys."""
    image = resnet_entries(config) if config.image.stages else vit_entries(config)
    out = [*image, *text_entries(config, prefix), WeightEntry("logit_scale", ("logit_scale",), "scalar")]
    if config.logit_bias:
        out.append(WeightEntry("logit_bias", ("logit_bias",), "scalar"))
    return out + (decoder_entries(config) if config.decoder.depth else [])


def count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    """Count the consecutive numbers from 0 for which the key ``pattern.format(number)`` exists."""
    number = 0
    while pattern.format(number) in tensors:
        number += 1
    return number


def infer(tensors: Mapping[str, np.ndarray], source: str, activation: Activation = "quick_gelu") -> ModelConfig:
    """Infer the config of a released CLIP from its tensors' shapes; heads are 64 wide, as in all released models.

    Raises UserError if a tensor that determines a size is missing.
    """
    prefix = "text." if "text.token_embedding.weight" in tensors else ""

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise UserError(
                source=source,
                field=key,
                reason="no such tensor: the weights have neither OpenAI's nor open_clip's layout",
            )
        return np.shape(tensors[key])

    vocab, width = shape(f"{prefix}token_embedding.weight")
    depth = count(tensors, prefix + "transformer.resblocks.{}.ln_1.weight")
    mlp = shape(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")[0]
    text = TextTowerConfig(
        width=width, depth=depth, heads=max(1, width // 64), mlp_ratio=mlp / width, vocab_size=vocab,
        context_length=shape(f"{prefix}positional_embedding")[0],
    )  # fmt: skip
    embed = shape(f"{prefix}text_projection")[1]
    if "visual.attnpool.positional_embedding" in tensors:
        stages = tuple(count(tensors, f"visual.layer{s}.{{}}.conv1.weight") for s in (1, 2, 3, 4))
        stem = shape("visual.conv3.weight")[0]
        side = round((shape("visual.attnpool.positional_embedding")[0] - 1) ** 0.5)
        image = ImageTowerConfig(
            width=stem, depth=sum(stages), heads=max(1, 32 * stem // 64), patch_size=32, image_size=32 * side,
            stages=stages,
        )  # fmt: skip
    else:
        width, _, patch, _ = shape("visual.conv1.weight")
        side = round((shape("visual.positional_embedding")[0] - 1) ** 0.5)
        mlp = shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0]
        image = ImageTowerConfig(
            width=width, depth=count(tensors, "visual.transformer.resblocks.{}.ln_1.weight"),
            heads=max(1, width // 64), mlp_ratio=mlp / width, patch_size=patch, image_size=patch * side,
        )  # fmt: skip
    return ModelConfig(image=image, text=text, decoder=DecoderConfig(), embed_dim=embed, activation=activation)
