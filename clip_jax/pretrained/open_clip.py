"""The layout of open_clip (CLIP, CustomTextCLIP, SigLIP, CoCa): conversion of configs, and weight entries."""

from __future__ import annotations

from clip_jax.config import DecoderConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.config.model import Activation, ImagePool, TextPool
from clip_jax.errors import UserError
from clip_jax.pretrained import openai
from clip_jax.pretrained.mapping import WeightEntry
from clip_jax.pretrained.openai import dense, norm
from clip_jax.types import JsonObject

# timm's vision transformers that open_clip's SigLIP configs name: width, depth, heads, MLP width (timm's registry).
TRUNKS = {
    "vit_base": (768, 12, 12, 3072),
    "vit_large": (1024, 24, 16, 4096),
    "vit_so400m": (1152, 27, 16, 4304),
    "vit_giantopt": (1536, 40, 16, 6144),
}
# trunks that timm names: patch and image sizes
NAMED = (
    ("vit_base", 16, (224, 256, 384, 512)), ("vit_base", 32, (256,)), ("vit_large", 16, (256, 384, 512)),
    ("vit_so400m", 14, (224, 378, 384)), ("vit_so400m", 16, (256, 384, 512)), ("vit_giantopt", 16, (256, 384)),
)  # fmt: skip
# with timm's gelu_tanh
TANH_TRUNKS = ("base_patch32", "large_patch16_siglip_512", "so400m_patch16", "giantopt_patch16")
VISION = {
    "image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "no_ln_pre", "pool_type",
    "final_ln_after_pool", "ls_init_value", "attentional_pool", "attn_pooler_heads", "attn_pooler_queries",
    "output_tokens", "patch_dropout", "norm_kwargs", "act_kwargs",
}  # fmt: skip
TRUNK = {
    "image_size", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_model_kwargs",
}  # fmt: skip
TEXT = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value", "no_causal_mask",
    "pool_type", "proj_bias", "proj_type", "norm_kwargs", "act_kwargs", "embed_cls", "output_tokens", "pad_id",
    "hf_tokenizer_name", "tokenizer_kwargs", "final_ln_after_pool", "eos_id",
}  # fmt: skip
DECODER = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "attn_pooler_heads"}
TOP = {
    "embed_dim", "quick_gelu", "custom_text", "init_logit_bias", "init_logit_scale", "vision_cfg", "text_cfg",
    "multimodal_cfg",
}  # fmt: skip

EXPORT = "export to open_clip"


def _known(name: str, values: JsonObject, known: set[str], source: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(source=source, field=f"{name}{unknown[0]}", value=values[unknown[0]], reason="is not supported")


def _activation(name: str, tower: JsonObject, quick: bool, source: str) -> Activation:
    """Return the activation of one tower. A timm trunk has its own, whatever else the config says."""
    if "timm_model_name" in tower:
        return trunk_activation(tower["timm_model_name"])
    kwargs = tower.get("act_kwargs") or {}
    _known(f"{name}.act_kwargs.", kwargs, set() if quick else {"approximate"}, source)
    if quick:
        return "quick_gelu"
    form = kwargs.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise UserError(
            source=source, field=f"{name}.act_kwargs.approximate", value=form, reason="must be none or tanh"
        )
    return "gelu" if form == "tanh" else "gelu_erf"


def trunk_activation(name: str) -> Activation:
    """Return the activation of timm's SigLIP trunk of this name: exact GELU, or tanh where timm's registry says so."""
    return "gelu" if any(part in name for part in TANH_TRUNKS) else "gelu_erf"


def _trunk(v: JsonObject, source: str) -> ImageTowerConfig:
    _known("vision_cfg.", v, TRUNK, source)
    name, kwargs = v["timm_model_name"], v.get("timm_model_kwargs", {})
    size = name.split("_patch")[0]
    if size not in TRUNKS or "siglip" not in name or v.get("timm_pool") != "map" or v.get("timm_proj") != "none":
        raise UserError(
            source=source,
            field="vision_cfg.timm_model_name",
            value=name,
            reason="must be a trunk of SigLIP with MAP pooling",
        )
    _known(
        "vision_cfg.timm_model_kwargs.", kwargs, {"img_size", "patch_size", "embed_dim", "depth", "num_heads"}, source
    )
    width, depth, heads, mlp = TRUNKS[size]
    ratio = mlp / width
    return ImageTowerConfig(
        width=kwargs.get("embed_dim", width), depth=kwargs.get("depth", depth), heads=kwargs.get("num_heads", heads),
        mlp_ratio=ratio, image_size=kwargs.get("img_size", v["image_size"]),
        patch_size=kwargs.get("patch_size", int(name.split("_patch")[1].split("_")[0])),
        pool="map", class_token=False, norm_pre=False, norm_eps=1e-6, patch_bias=True, projection=False,
    )  # fmt: skip


def _vision(v: JsonObject, source: str) -> ImageTowerConfig:
    if "timm_model_name" in v:
        return _trunk(v, source)
    _known("vision_cfg.", v, VISION, source)
    layers, width = v.get("layers", 12), v.get("width", 768)
    if not isinstance(layers, int):
        stages = tuple(layers)
        width = v.get("width", 64)
        return ImageTowerConfig(
            width=width, depth=sum(stages), heads=width * 32 // v.get("head_width", 64), patch_size=32,
            image_size=v.get("image_size", 224), stages=stages,
        )  # fmt: skip
    pooled = bool(v.get("attentional_pool"))
    pools: dict[str, ImagePool] = {"tok": "cls", "avg": "avg"}
    pool = pools.get(v.get("pool_type", "tok"))
    if pool is None or (pooled and pool != "cls"):
        raise UserError(source=source, field="vision_cfg.pool_type", value=v["pool_type"], reason="is not supported")
    return ImageTowerConfig(
        width=width, depth=layers, heads=width // v.get("head_width", 64), mlp_ratio=v.get("mlp_ratio", 4.0),
        image_size=v.get("image_size", 224), patch_size=v.get("patch_size", 16),
        pool="attentional" if pooled else pool, norm_pre=not v.get("no_ln_pre", False),
        norm_after_pool=bool(v.get("final_ln_after_pool", False)), layer_scale=v.get("ls_init_value") or 0.0,
        norm_eps=v.get("norm_kwargs", {}).get("eps", 1e-5), patch_dropout=float(v.get("patch_dropout", 0.0)),
        pool_heads=v.get("attn_pooler_heads", 8) if pooled else 0,
        pool_queries=v.get("attn_pooler_queries", 256) if pooled else 0,
    )  # fmt: skip


def _text(t: JsonObject, source: str) -> TextTowerConfig:
    if "hf_model_name" in t:
        raise UserError(
            source=source,
            field="text_cfg.hf_model_name",
            value=t["hf_model_name"],
            reason="is not supported, only CLIP's own text towers are",
        )
    _known("text_cfg.", t, TEXT, source)
    pools: dict[str, TextPool] = {"argmax": "eot", "last": "last"}
    pool = "cls" if t.get("embed_cls") else pools.get(t.get("pool_type", "argmax"))
    if pool is None:
        raise UserError(source=source, field="text_cfg.pool_type", value=t["pool_type"], reason="is not supported")
    vocab = t.get("vocab_size", 49408)
    return TextTowerConfig(
        width=t.get("width", 512), depth=t.get("layers", 12), heads=t.get("heads", 8),
        mlp_ratio=t.get("mlp_ratio", 4.0), context_length=t.get("context_length", 77), vocab_size=vocab,
        causal=not t.get("no_causal_mask", False), pool=pool, norm_eps=t.get("norm_kwargs", {}).get("eps", 1e-5),
        layer_scale=t.get("ls_init_value") or 0.0, projection=t.get("proj_type", "linear") != "none",
        projection_bias=bool(t.get("proj_bias", False)), pad_id=min(t.get("pad_id", 0), vocab - 1),
    )  # fmt: skip


def config_of(cfg: JsonObject, source: str) -> ModelConfig:
    """Convert a ``model_cfg`` block to our config; raise UserError naming the first field that is not supported."""
    try:
        _known("", cfg, TOP, source)
        decoder = DecoderConfig()
        m = cfg.get("multimodal_cfg")
        if m:
            _known("multimodal_cfg.", m, DECODER, source)
            decoder = DecoderConfig(
                m.get("layers", 12), m.get("width", 512), m.get("heads", 8), m.get("mlp_ratio", 4.0)
            )
        bias = cfg.get("init_logit_bias") is not None
        quick = bool(cfg.get("quick_gelu"))
        image, text = (_activation(n, cfg[n], quick, source) for n in ("vision_cfg", "text_cfg"))
        if m and "gelu" in (image, text):
            raise UserError(
                source=source,
                field="act_kwargs.approximate",
                value="tanh",
                reason="must be none with a decoder, as in open_clip",
            )
        return ModelConfig(
            image=_vision(cfg["vision_cfg"], source), text=_text(cfg["text_cfg"], source), decoder=decoder,
            embed_dim=cfg["embed_dim"], activation=image, text_activation="" if text == image else text,
            logit_bias=bias, max_logit_scale=1e4 if bias else 100.0,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            field=source, reason=f"not a model config of open_clip ({type(error).__name__}: {error})"
        ) from None


def _trunk_to(config: ModelConfig) -> JsonObject:
    i = config.image
    plain = not i.class_token and not i.norm_pre and i.patch_bias and not i.projection and not i.layer_scale
    if config.activation not in ("gelu", "gelu_erf") or not plain or i.norm_eps != 1e-6:
        raise UserError(
            source=EXPORT,
            field="model.image.pool",
            value=i.pool,
            reason="needs SigLIP's image tower: gelu or gelu_erf, norm_eps=1e-6, patch_bias, and no class_token, "
            "norm_pre, layer_scale or projection",
        )
    cfg = {"image_size": i.image_size, "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
    every = [(trunk, f"{trunk}_patch{p}_siglip_{size}", p, size) for trunk, p, sizes in NAMED for size in sizes]
    alike = [entry for entry in every if trunk_activation(entry[1]) == config.activation]
    for trunk, name, patch, size in alike:
        if (i.width, i.depth, i.heads, i.mlp_width, i.patch_size, i.image_size) == (*TRUNKS[trunk], patch, size):
            return {**cfg, "timm_model_name": name}
    for trunk, name, *_ in alike:
        width, _, _, mlp = TRUNKS[trunk]
        if int(i.width * (mlp / width)) == i.mlp_width:
            shape = {
                "img_size": i.image_size, "patch_size": i.patch_size, "embed_dim": i.width, "depth": i.depth,
                "num_heads": i.heads,
            }  # fmt: skip
            return {**cfg, "timm_model_name": name, "timm_model_kwargs": shape}
    ratios = sorted({f"{TRUNKS[trunk][3]}/{TRUNKS[trunk][0]}" for trunk, *_ in alike})
    raise UserError(
        source=EXPORT,
        field="model.image.mlp_ratio",
        value=i.mlp_ratio,
        reason=f"must be {' or '.join(ratios)} with MAP pooling and {config.activation}, as SigLIP's image towers",
    )


def _vision_to(config: ModelConfig) -> JsonObject:
    i = config.image
    if i.pool == "map":
        return _trunk_to(config)
    vision: JsonObject = {"image_size": i.image_size, "width": i.width}
    if i.stages:
        return vision | {"layers": list(i.stages), "head_width": 32 * i.width // i.heads}
    if not i.class_token or i.patch_bias or not i.projection:
        raise UserError(
            source=EXPORT, field="model.image", reason="needs class_token and projection, and no patch_bias"
        )
    vision |= {"layers": i.depth, "head_width": i.width // i.heads, "patch_size": i.patch_size}
    vision |= {"mlp_ratio": i.mlp_ratio} if i.mlp_ratio != 4.0 else {}
    vision |= {"no_ln_pre": True} if not i.norm_pre else {}
    vision |= {"pool_type": "avg"} if i.pool == "avg" else {}
    vision |= {"final_ln_after_pool": True} if i.norm_after_pool else {}
    vision |= {"ls_init_value": i.layer_scale} if i.layer_scale else {}
    vision |= {"norm_kwargs": {"eps": i.norm_eps}} if i.norm_eps != 1e-5 else {}
    if i.pool == "attentional":
        vision |= {"attentional_pool": True, "attn_pooler_heads": i.pool_heads, "attn_pooler_queries": i.pool_queries}
    return vision


def config_to(config: ModelConfig) -> JsonObject:
    """Convert our config to a ``model_cfg`` block; raise UserError for what open_clip cannot express.

    `config_of` converts the block back to the same config.
    """
    i, t, d = config.image, config.text, config.decoder
    if (t.pool == "cls") != bool(d.depth) or (i.pool == "attentional") != bool(d.depth):
        raise UserError(
            source=EXPORT, field="model.image.pool, model.text.pool, model.decoder.depth",
            reason="pool='attentional' of images, pool='cls' of texts and a decoder go together",
        )  # fmt: skip
    if d.depth and config.logit_bias:
        raise UserError(
            source=EXPORT, field="model.logit_bias", value=True, reason="must be False with a decoder, as in CoCa"
        )
    vision = _vision_to(config)
    if not t.projection:
        raise UserError(source=EXPORT, field="model.text.projection", value=False, reason="must be True")
    text: JsonObject = {
        "context_length": t.context_length, "vocab_size": t.vocab_size, "width": t.width, "heads": t.heads,
        "layers": t.depth,
    }  # fmt: skip
    text |= {"mlp_ratio": t.mlp_ratio} if t.mlp_ratio != 4.0 else {}
    text |= {"ls_init_value": t.layer_scale} if t.layer_scale else {}
    text |= {"no_causal_mask": True} if not t.causal else {}
    text |= {"pool_type": "last"} if t.pool == "last" else {}
    text |= {"pad_id": t.pad_id} if t.pad_id else {}
    text |= {"proj_bias": True} if t.projection_bias else {}
    text |= {"norm_kwargs": {"eps": t.norm_eps}} if t.norm_eps != 1e-5 else {}
    cfg: JsonObject = {"embed_dim": config.embed_dim}
    forms = {"text_cfg": (text, config.activation_of_text)}
    if i.pool != "map":  # a trunk's is in its name
        forms["vision_cfg"] = (vision, config.activation)
    if {form for _, form in forms.values()} == {"quick_gelu"}:
        cfg["quick_gelu"] = True
    elif any(form == "quick_gelu" for _, form in forms.values()):
        raise UserError(
            source=EXPORT, field="model.activation, model.text_activation",
            reason="quick_gelu must be that of both towers or of none",
        )  # fmt: skip
    for tower, form in forms.values():
        if form == "gelu":
            tower["act_kwargs"] = {"approximate": "tanh"}
    if config.logit_bias:
        cfg["init_logit_bias"] = -10.0
    if custom_text(config):
        cfg["custom_text"] = True
    if d.depth:
        vision["output_tokens"] = text["output_tokens"] = text["embed_cls"] = True
        cfg["multimodal_cfg"] = {
            "context_length": t.context_length, "vocab_size": t.vocab_size, "width": d.width, "heads": d.heads,
            "layers": d.depth, "mlp_ratio": d.mlp_ratio, "attn_pooler_heads": i.pool_heads,
        }  # fmt: skip
    return {**cfg, "vision_cfg": vision, "text_cfg": text}


def custom_text(config: ModelConfig) -> bool:
    """Return whether open_clip has a separate text module, whose keys begin with "text."."""
    return bool(config.decoder.depth) or config.image.pool == "map"


def _trunk_entries(config: ModelConfig) -> list[WeightEntry]:
    root = "visual.trunk"
    out = [
        WeightEntry("image/patch/kernel", (f"{root}.patch_embed.proj.weight",), "conv"),
        WeightEntry("image/patch/bias", (f"{root}.patch_embed.proj.bias",)),
        WeightEntry("image/position", (f"{root}.pos_embed",), "row"),
    ]
    names = (("qkv", "attn.qkv"), ("out", "attn.proj"), ("fc", "mlp.fc1"), ("proj", "mlp.fc2"))
    for i in range(config.image.depth):
        path, key = "image/blocks/blocks", f"{root}.blocks.{i}"
        out += norm(f"{path}/ln_1", f"{key}.norm1", i) + norm(f"{path}/ln_2", f"{key}.norm2", i)
        for name, source_name in names:
            out += dense(f"{path}/{name}", f"{key}.{source_name}", i)
    out += norm("image/ln_post", f"{root}.norm")
    path, key = "image/head", f"{root}.attn_pool"
    out.append(WeightEntry(f"{path}/query", (f"{key}.latent",), "row"))
    out += dense(f"{path}/attention/q", f"{key}.q") + dense(f"{path}/attention/out", f"{key}.proj")
    for i, name in enumerate("kv"):
        out.append(WeightEntry(f"{path}/attention/{name}/kernel", (f"{key}.kv.weight",), "linear", None, (i, 2)))
        out.append(WeightEntry(f"{path}/attention/{name}/bias", (f"{key}.kv.bias",), part=(i, 2)))
    out += norm(f"{path}/norm", f"{key}.norm")
    return out + dense(f"{path}/mlp/fc", f"{key}.mlp.fc1") + dense(f"{path}/mlp/proj", f"{key}.mlp.fc2")


def entries(config: ModelConfig, prefix: str) -> list[WeightEntry]:
    """Return the entries of all tensors; ``prefix`` is "text." for a separate text module (CustomTextCLIP, CoCa)."""
    if config.image.pool != "map":
        return openai.entries(config, prefix)
    out = [*_trunk_entries(config), *openai.text_entries(config, prefix)]
    out.append(WeightEntry("logit_scale", ("logit_scale",), "scalar"))
    return [*out, WeightEntry("logit_bias", ("logit_bias",), "scalar")] if config.logit_bias else out
