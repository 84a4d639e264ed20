"""The layout of the transformers library (CLIPModel, SiglipModel): conversion of configs, and weight entries."""

from __future__ import annotations

from typing import Any

from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.config.model import Activation
from clip_jax.errors import UserError
from clip_jax.pretrained.mapping import WeightEntry
from clip_jax.pretrained.openai import dense, norm, packed_attention
from clip_jax.types import JsonObject

ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu", "gelu": "gelu_erf", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu",
}  # fmt: skip
IGNORED = ("position_ids",)


def _defaults(siglip: bool) -> tuple[JsonObject, JsonObject]:
    """Return the library's defaults for fields missing in a config file: of the image and of the text tower."""
    image: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                             "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "num_channels": 3,
                             "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # fmt: skip
    text: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
                            "num_attention_heads": 8, "max_position_embeddings": 77, "vocab_size": 49408,
                            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407}  # fmt: skip
    if siglip:
        image |= {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
        text |= {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": 32000,
                 "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip
    return image, text


def config_of(cfg: JsonObject, source: str) -> ModelConfig:
    """Convert a ``config.json`` to our config; raise UserError naming what is not supported."""
    kind = cfg.get("model_type")
    if kind not in ("clip", "siglip"):
        raise UserError(source=source, field="model_type", value=kind, reason="must be clip or siglip")
    siglip = kind == "siglip"
    image, text = _defaults(siglip)
    try:
        image |= cfg.get("vision_config") or {}
        text |= cfg.get("text_config") or {}
        if image["num_channels"] != 3 or not image.get("vision_use_head", True):
            raise UserError(source=source, field="vision_config", reason="needs num_channels=3 and the pooling head")
        eos = text["eos_token_id"]
        # early config files have 2 here, and the library then pools at the largest token id
        if not siglip and eos not in (2, text["vocab_size"] - 1):
            raise UserError(
                source=source,
                field="text_config.eos_token_id",
                value=eos,
                reason=f"must be the last token, {text['vocab_size'] - 1}",
            )
        for name, values in (("vision_config", image), ("text_config", text)):
            if values["hidden_act"] not in ACTIVATIONS:
                reason = f"must be one of {', '.join(ACTIVATIONS)}"
                raise UserError(source=source, field=f"{name}.hidden_act", value=values["hidden_act"], reason=reason)
        act, of_text = ACTIVATIONS[image["hidden_act"]], ACTIVATIONS[text["hidden_act"]]
        common_image = {
            "width": image["hidden_size"], "depth": image["num_hidden_layers"], "heads": image["num_attention_heads"],
            "mlp_ratio": image["intermediate_size"] / image["hidden_size"], "image_size": image["image_size"],
            "patch_size": image["patch_size"], "norm_eps": image["layer_norm_eps"],
        }  # fmt: skip
        common_text = {
            "width": text["hidden_size"], "depth": text["num_hidden_layers"], "heads": text["num_attention_heads"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
            "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"],
            "norm_eps": text["layer_norm_eps"],
        }  # fmt: skip
        if siglip:
            text.setdefault("projection_size", text["hidden_size"])
            return ModelConfig(
                image=ImageTowerConfig(**common_image, **SIGLIP_IMAGE),
                text=TextTowerConfig(**common_text, **SIGLIP_TEXT),
                embed_dim=text["projection_size"], logit_bias=True, max_logit_scale=1e4,
                activation=act, text_activation="" if of_text == act else of_text,
            )  # fmt: skip
        return ModelConfig(
            image=ImageTowerConfig(**common_image), text=TextTowerConfig(**common_text),
            embed_dim=cfg.get("projection_dim", 512), activation=act, text_activation="" if of_text == act else of_text,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            field=source, reason=f"not a config of CLIPModel or SiglipModel ({type(error).__name__}: {error})"
        ) from None


SIGLIP_IMAGE: dict[str, Any] = {
    "pool": "map", "class_token": False, "norm_pre": False, "patch_bias": True, "projection": False,
}  # fmt: skip
SIGLIP_TEXT: dict[str, Any] = {"causal": False, "pool": "last", "projection_bias": True}


def config_to(config: ModelConfig) -> JsonObject:
    """Convert our config to the ``config.json`` of CLIPModel, or of SiglipModel if the model has a logit bias.

    Raises UserError for what neither class can express.
    """
    i, t, siglip = config.image, config.text, config.logit_bias
    plain = not i.stages and not config.decoder.depth
    if plain:
        image = ImageTowerConfig(
            width=i.width, depth=i.depth, heads=i.heads, mlp_ratio=i.mlp_ratio, image_size=i.image_size,
            patch_size=i.patch_size, norm_eps=i.norm_eps, patch_dropout=i.patch_dropout,
            **(SIGLIP_IMAGE if siglip else {}),
        )  # fmt: skip
        text = TextTowerConfig(
            width=t.width, depth=t.depth, heads=t.heads, mlp_ratio=t.mlp_ratio, context_length=t.context_length,
            vocab_size=t.vocab_size, norm_eps=t.norm_eps, pad_id=t.pad_id, **(SIGLIP_TEXT if siglip else {}),
        )  # fmt: skip
        plain = (i, t) == (image, text)
    if not plain:
        raise UserError(
            source="export to transformers",
            field="model.image, model.text",
            reason="must be the towers of CLIPModel (class token, causal text) or, with a logit bias, of SiglipModel "
            "(MAP pooling, last token)",
        )
    acts: dict[str, str] = {name: source_name for source_name, name in reversed(ACTIVATIONS.items())}
    common: dict[str, Any] = {"attention_dropout": 0.0}
    kind = "siglip" if siglip else "clip"
    common |= {} if siglip else {"projection_dim": config.embed_dim}
    text_more = {"projection_size": config.embed_dim} if siglip else {}
    return {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"], "model_type": kind,
        **({} if siglip else {"projection_dim": config.embed_dim}),
        "text_config": {
            **common, **text_more, "hidden_act": acts[config.activation_of_text],
            "model_type": f"{kind}_text_model", "hidden_size": t.width,
            "intermediate_size": t.mlp_width, "num_hidden_layers": t.depth, "num_attention_heads": t.heads,
            "vocab_size": t.vocab_size, "max_position_embeddings": t.context_length, "layer_norm_eps": t.norm_eps,
            "bos_token_id": t.vocab_size - 2, "eos_token_id": t.vocab_size - 1, "pad_token_id": t.pad_id,
        },
        "vision_config": {
            **common, "hidden_act": acts[config.activation], "model_type": f"{kind}_vision_model",
            "hidden_size": i.width, "intermediate_size": i.mlp_width,
            "num_hidden_layers": i.depth, "num_attention_heads": i.heads, "image_size": i.image_size,
            "patch_size": i.patch_size, "num_channels": 3, "layer_norm_eps": i.norm_eps,
        },
    }  # fmt: skip


def _blocks(path: str, key: str, depth: int) -> list[WeightEntry]:
    out = []
    for i in range(depth):
        at = f"{key}.encoder.layers.{i}"
        out += norm(f"{path}/ln_1", f"{at}.layer_norm1", i) + norm(f"{path}/ln_2", f"{at}.layer_norm2", i)
        out += dense(f"{path}/qkv", tuple(f"{at}.self_attn.{n}_proj" for n in "qkv"), i)
        out += dense(f"{path}/out", f"{at}.self_attn.out_proj", i)
        out += dense(f"{path}/fc", f"{at}.mlp.fc1", i) + dense(f"{path}/proj", f"{at}.mlp.fc2", i)
    return out


def entries(config: ModelConfig) -> list[WeightEntry]:
    """Return the entries of all tensors of CLIPModel, or of SiglipModel if the model has a logit bias."""
    siglip = config.logit_bias
    out = [
        WeightEntry("image/patch/kernel", ("vision_model.embeddings.patch_embedding.weight",), "conv"),
        WeightEntry("image/position", ("vision_model.embeddings.position_embedding.weight",)),
        WeightEntry("text/token", ("text_model.embeddings.token_embedding.weight",)),
        WeightEntry("text/position", ("text_model.embeddings.position_embedding.weight",)),
        WeightEntry("logit_scale", ("logit_scale",), "one" if siglip else "scalar"),
    ]
    out += _blocks("image/blocks/blocks", "vision_model", config.image.depth)
    out += _blocks("text/blocks/blocks", "text_model", config.text.depth)
    out += norm("image/ln_post", "vision_model.post_layernorm") + norm("text/ln_final", "text_model.final_layer_norm")
    if not siglip:
        out.append(WeightEntry("image/class_token", ("vision_model.embeddings.class_embedding",)))
        out += norm("image/ln_pre", "vision_model.pre_layrnorm")
        out.append(WeightEntry("image/projection", ("visual_projection.weight",), "linear"))
        return [*out, WeightEntry("text/projection", ("text_projection.weight",), "linear")]
    out += [WeightEntry("logit_bias", ("logit_bias",), "one")]
    out += [WeightEntry("image/patch/bias", ("vision_model.embeddings.patch_embedding.bias",))]
    out += [WeightEntry("text/projection", ("text_model.head.weight",), "linear")]
    out += [WeightEntry("text/projection_bias", ("text_model.head.bias",))]
    path, key = "image/head", "vision_model.head"
    out += [WeightEntry(f"{path}/query", (f"{key}.probe",), "row")]
    out += packed_attention(f"{path}/attention", f"{key}.attention") + norm(f"{path}/norm", f"{key}.layernorm")
    return out + dense(f"{path}/mlp/fc", f"{key}.mlp.fc1") + dense(f"{path}/mlp/proj", f"{key}.mlp.fc2")
