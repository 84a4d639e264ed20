"""Model configs: frozen dataclasses that validate their fields. Importing this module loads no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from clip_jax.config.fields import check_choices
from clip_jax.errors import ConfigError, at_least, between, one_of

DType = Literal["float32", "bfloat16", "float16", "float64"]  # float64 needs JAX's x64 mode
Activation = Literal["gelu", "gelu_erf", "quick_gelu"]  # tanh form; exact; the published models'
ImagePool = Literal["cls", "avg", "map", "attentional"]
Attention = Literal["auto", "xla", "cudnn"]
RematPolicy = Literal["auto", "nothing", "attention", "dense", "dots"]
TextPool = Literal["eot", "last", "cls"]
TextEncoder = Literal["transformer", "bag_of_words"]
Objective = Literal["contrastive", "caption", "bag_of_words"]
Parametrization = Literal["standard", "mup"]
ResizeMode = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]
DTYPES, ACTIVATIONS, ATTENTIONS = get_args(DType), get_args(Activation), get_args(Attention)
IMAGE_POOLS, TEXT_POOLS, TEXT_ENCODERS = get_args(ImagePool), get_args(TextPool), get_args(TextEncoder)
OBJECTIVES, PARAMETRIZATIONS, REMAT_POLICIES = get_args(Objective), get_args(Parametrization), get_args(RematPolicy)
RESIZE_MODES, INTERPOLATIONS = get_args(ResizeMode), get_args(Interpolation)


def _check_tower(name: str, tower: ImageTowerConfig | TextTowerConfig | DecoderConfig) -> None:
    for field_name in ("width", "depth", "heads"):
        at_least(f"{name}.{field_name}", getattr(tower, field_name), 1)
    if tower.width % tower.heads:
        raise ConfigError(field=f"{name}.heads", value=tower.heads, reason=f"must divide {name}.width={tower.width}")
    if not tower.mlp_ratio > 0:
        raise ConfigError(field=f"{name}.mlp_ratio", value=tower.mlp_ratio, reason="must be above 0")


def _mlp_width(width: int, ratio: float) -> int:
    return int(width * ratio + 1e-6)  # a ratio inferred from weights must give back their exact width


def _ignored(name: str, condition: str, tower: object, defaults: object, fields: tuple[str, ...]) -> None:
    for field_name in fields:
        if getattr(tower, field_name) != getattr(defaults, field_name):
            reason = f"ignored {condition}"
            raise ConfigError(field=f"{name}.{field_name}", value=getattr(tower, field_name), reason=reason)


@dataclass(frozen=True)
class ImageTowerConfig:
    """Image tower for square images: a vision transformer or, if ``stages`` is set, CLIP's modified ResNet."""

    width: int = 64  # token width; ResNet: width of the stem
    depth: int = 2  # number of blocks; ResNet: the sum of stages
    heads: int = 4  # ResNet: of the attention pooling
    mlp_ratio: float = 4.0  # hidden units of each block's MLP per unit of width
    image_size: int = 32  # pixels per side
    patch_size: int = 8  # pixels per side; ResNet: 32, its stride
    stages: tuple[
        int, ...
    ] = ()  # bottleneck blocks per stage of a ResNet: (3, 4, 6, 3) is RN50; empty: a vision transformer
    pool: ImagePool = "cls"  # map: SigLIP's attention head; attentional: CoCa's queries
    class_token: bool = True  # prepend a learned token
    norm_pre: bool = True  # layer norm before the blocks
    norm_after_pool: bool = False  # avg: apply the last norm to the pooled vector, not to the tokens
    norm_eps: float = 1e-5  # of the layer norms
    patch_bias: bool = False  # bias of the patch embedding
    projection: bool = True  # to embed_dim; without it, width must equal embed_dim
    layer_scale: float = 0.0  # initial gain of each residual branch; 0: no layer scale
    patch_dropout: float = 0.0  # fraction of patches dropped in training
    pool_heads: int = 0  # heads of attentional pooling
    pool_queries: int = 0  # of attentional pooling: the first gives the image feature, the others feed the decoder

    def __post_init__(self) -> None:
        name = "model.image"
        check_choices(self, f"{name}.")
        object.__setattr__(self, "stages", tuple(self.stages))
        at_least(f"{name}.patch_size", self.patch_size, 1)
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            reason = f"must be a multiple of {name}.patch_size={self.patch_size}"
            raise ConfigError(field=f"{name}.image_size", value=self.image_size, reason=reason)
        if self.stages:
            self._check_resnet(name)
            return
        _check_tower(name, self)
        if not self.norm_eps > 0:
            raise ConfigError(field=f"{name}.norm_eps", value=self.norm_eps, reason="must be above 0")
        at_least(f"{name}.layer_scale", self.layer_scale, 0)
        between(f"{name}.patch_dropout", self.patch_dropout, 0.0, 0.95)
        if self.pool == "cls" and not self.class_token:
            reason = f"{name}.pool='cls' reads the class token"
            raise ConfigError(field=f"{name}.class_token", value=False, reason=reason)
        if self.pool == "attentional":
            at_least(f"{name}.pool_heads", self.pool_heads, 1)
            at_least(f"{name}.pool_queries", self.pool_queries, 1)
        else:
            _ignored(name, f"with {name}.pool={self.pool!r}", self, ImageTowerConfig, ("pool_heads", "pool_queries"))
        if self.norm_after_pool and self.pool != "avg":
            raise ConfigError(field=f"{name}.norm_after_pool", value=True, reason=f"ignored unless {name}.pool='avg'")

    def _check_resnet(self, name: str) -> None:
        if len(self.stages) != 4 or min(self.stages) < 1:
            raise ConfigError(field=f"{name}.stages", value=self.stages, reason="needs four numbers, each at least 1")
        if self.depth != sum(self.stages):
            reason = f"must be {sum(self.stages)}, the sum of {name}.stages"
            raise ConfigError(field=f"{name}.depth", value=self.depth, reason=reason)
        if self.patch_size != 32:
            reason = "must be 32, the stride of a ResNet"
            raise ConfigError(field=f"{name}.patch_size", value=self.patch_size, reason=reason)
        at_least(f"{name}.width", self.width, 2)
        at_least(f"{name}.heads", self.heads, 1)
        if self.width % 2 or 32 * self.width % self.heads:
            reason = f"must be even, and {name}.heads must divide 32 times it"
            raise ConfigError(field=f"{name}.width", value=self.width, reason=reason)
        fields = (
            "mlp_ratio", "pool", "class_token", "norm_pre", "norm_after_pool", "norm_eps", "patch_bias", "projection",
            "layer_scale", "patch_dropout", "pool_heads", "pool_queries",
        )  # fmt: skip
        _ignored(name, "by a ResNet", self, ImageTowerConfig, fields)

    @property
    def patches(self) -> int:
        """Number of patches per image; for a ResNet, cells of its last feature map."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Number of patches plus the class token, if any (for a ResNet, the mean token)."""
        return self.patches + int(self.class_token)

    @property
    def mlp_width(self) -> int:
        """Number of hidden units in each block's MLP."""
        return _mlp_width(self.width, self.mlp_ratio)


_BLOCKS = ("mlp_ratio", "causal", "pool", "norm_eps", "layer_scale", "projection", "projection_bias")


@dataclass(frozen=True)
class TextTowerConfig:
    """Text tower: a transformer or a bag of words; with ``model.objective="caption"``, the caption language model."""

    encoder: TextEncoder = "transformer"  # bag_of_words: sum over the distinct words, ignoring their order
    width: int = 64  # token width
    depth: int = 2  # number of blocks
    heads: int = 4  # attention heads per block
    mlp_ratio: float = 4.0  # hidden units of each block's MLP per unit of width
    context_length: int = 24  # tokens, including start and end tokens
    vocab_size: int = 1024  # tokens; a run needs 260 or more, and 49408 with data.tokenizer="clip"
    causal: bool = True  # attend to earlier tokens only
    pool: TextPool = "eot"  # eot: at the largest token id; last: at the last position; cls: CoCa's appended token
    norm_eps: float = 1e-5  # of the layer norms
    layer_scale: float = 0.0  # initial gain of each residual branch; 0: no layer scale
    projection: bool = True  # to embed_dim; without it, width must equal embed_dim
    projection_bias: bool = False  # bias of the projection to embed_dim
    pad_id: int = 0  # padding: ignored by the caption loss, and with pool=cls not attended to by the appended token

    def __post_init__(self) -> None:
        name = "model.text"
        check_choices(self, f"{name}.")
        if self.encoder == "bag_of_words":
            _ignored(name, f"with {name}.encoder='bag_of_words'", self, TextTowerConfig, ("depth", "heads", *_BLOCKS))
            at_least(f"{name}.width", self.width, 1)
        else:
            _check_tower(name, self)
        at_least(f"{name}.context_length", self.context_length, 3)
        at_least(f"{name}.vocab_size", self.vocab_size, 4)
        if not self.norm_eps > 0:
            raise ConfigError(field=f"{name}.norm_eps", value=self.norm_eps, reason="must be above 0")
        at_least(f"{name}.layer_scale", self.layer_scale, 0)
        between(f"{name}.pad_id", self.pad_id, 0, self.vocab_size - 1)
        if self.projection_bias and not self.projection:
            raise ConfigError(field=f"{name}.projection_bias", reason=f"ignored with {name}.projection=False")
        if self.pool == "cls" and not self.causal:
            reason = f"the appended token of {name}.pool='cls' needs the causal mask"
            raise ConfigError(field=f"{name}.causal", value=False, reason=reason)

    @property
    def tokens(self) -> int:
        """Number of positions, including the appended token."""
        return self.context_length + int(self.pool == "cls")

    @property
    def mlp_width(self) -> int:
        """Number of hidden units in each block's MLP."""
        return _mlp_width(self.width, self.mlp_ratio)


@dataclass(frozen=True)
class DecoderConfig:
    """CoCa's multimodal decoder: causal blocks, each followed by cross-attention to the image; depth 0: no decoder."""

    depth: int = 0  # number of blocks; 0: no decoder
    width: int = 64  # equals embed_dim and the text tower's width
    heads: int = 4  # attention heads per block
    mlp_ratio: float = 4.0  # hidden units of each block's MLP per unit of width

    def __post_init__(self) -> None:
        if self.depth:
            _check_tower("model.decoder", self)
        else:
            _ignored(
                "model.decoder", "without model.decoder.depth", self, DecoderConfig, ("width", "heads", "mlp_ratio")
            )

    @property
    def mlp_width(self) -> int:
        """Number of hidden units in each block's MLP."""
        return _mlp_width(self.width, self.mlp_ratio)


class PixelSettings(Protocol):
    """Resizing and normalization of images."""

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def resize_mode(self) -> str: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def fill_color(self) -> int: ...


def check_pixels(prefix: str, settings: PixelSettings) -> None:
    """Check ``mean``, ``std``, ``resize_mode``, ``interpolation`` and ``fill_color``.

    Args:
      prefix: of the fields' names in the error message.
      settings: what to check.

    Raises:
      ConfigError: one of them is out of range, or no choice.
    """
    one_of(f"{prefix}resize_mode", settings.resize_mode, RESIZE_MODES)
    one_of(f"{prefix}interpolation", settings.interpolation, INTERPOLATIONS)
    between(f"{prefix}fill_color", settings.fill_color, 0, 255)
    for name, low in (("mean", -1e3), ("std", 1e-6)):
        value = getattr(settings, name)
        if len(value) != 3 or not all(low <= v <= 1e3 for v in value):  # written so that NaN fails too
            reason = f"must be three numbers from {low:g} to 1000"
            raise ConfigError(field=prefix + name, value=value, reason=reason)


@dataclass(frozen=True)
class PixelConfig:
    """Image preprocessing: resizing, and normalization per channel. Names are those of open_clip.

    If left at its default, a run that takes its image tower from ``init_from`` uses the source's settings.
    """

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # of pixels from 0 to 1; the published models'
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)  # likewise, the standard deviations
    resize_mode: ResizeMode = "shortest"  # shortest: side, then crop; longest: side, then pad
    interpolation: Interpolation = "bicubic"  # of the resizing
    fill_color: int = 0  # longest: value of the padding, 0 to 255

    def __post_init__(self) -> None:
        check_pixels("pixels.", self)


@dataclass(frozen=True)
class ParametrizationConfig:
    """Dependence of init std and learning rates on width and depth; the table is in `config.mup`.

    With ``mup`` the optimal learning rate stays that of the base sizes, at which it equals ``standard``.
    """

    kind: Parametrization = "standard"  # mup: maximal update parametrization (Yang et al., 2022)
    base_image_width: int = 0  # mup: width of the model whose hyperparameters are transferred
    base_text_width: int = 0  # likewise of the text tower
    base_image_depth: int = 0  # mup: residual branches scale as base depth / depth; 0: no depth scaling
    base_text_depth: int = 0  # likewise of the text tower

    def __post_init__(self) -> None:
        name = "model.parametrization"
        check_choices(self, f"{name}.")
        widths, depths = ("base_image_width", "base_text_width"), ("base_image_depth", "base_text_depth")
        if self.kind == "standard":
            _ignored(name, f"with {name}.kind='standard'", self, ParametrizationConfig, widths + depths)
            return
        for field_name in widths + depths:
            at_least(f"{name}.{field_name}", getattr(self, field_name), int(field_name in widths))


# Two fields are not in the repr, from which `pretrained.load.digest` names a model, so that earlier digests stay valid.
@dataclass(frozen=True)
class ModelConfig:
    """A model: two towers with a shared embedding space and a learned temperature, and a decoder for CoCa.

    ``objective`` selects this contrastive model or one of the two predictive models of Radford et al., 2021, figure 2:
    an image tower whose features become the first tokens of a caption language model, or predict the set of words.
    A config says ``model: "ViT-B/32"`` for the fields of a preset, or ``"from source"`` for those of
    ``init_from.source``; with other fields beside it, the same is an entry ``preset`` of the group.
    """

    objective: Objective = "contrastive"  # caption, bag_of_words: the predictive models
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    embed_dim: int = 64  # width of the shared embedding space
    activation: Activation = "gelu"  # gelu: tanh form; gelu_erf: exact; quick_gelu: the published models'
    # of the text tower; empty: activation
    text_activation: Activation | Literal[""] = field(default="", repr=False)
    init_temperature: float = 0.07  # of the softmax over pairs; learned from there
    max_logit_scale: float = 100.0  # upper limit of the learned 1 / temperature
    logit_bias: bool = False  # SigLIP's learned bias of the logits, initially -10
    compute_dtype: DType = "float32"  # float64 needs JAX's x64 mode
    param_dtype: DType = "float32"  # of the stored parameters
    text_param_dtype: DType | Literal[""] = ""  # of the text tower's parameters; empty: param_dtype
    # cudnn: fused; auto: cudnn where the devices support it (`models.execution`)
    attention: Attention = field(default="auto", repr=False)
    remat: bool = False  # recompute each block in the backward pass
    # with remat, what is saved instead of recomputed; dense: outputs of dense layers and of attention; dots: outputs of
    # all products; auto: nothing with remat; without it, dense on accelerators and everything on a CPU
    remat_policy: RematPolicy = "auto"
    scan_layers: bool = True  # compile one block for all layers; False unrolls the loop (faster on CPU)
    prefix_tokens: int = 4  # caption: number of tokens made from the image features
    vocab_chunk: int = 0  # caption, bag_of_words: rows of vocabulary logits computed at a time in training; 0: all
    parametrization: ParametrizationConfig = field(default_factory=ParametrizationConfig)

    def __post_init__(self) -> None:
        at_least("model.embed_dim", self.embed_dim, 1)
        check_choices(self, "model.")
        if self.text_activation and (self.text.encoder != "transformer" or self.objective == "bag_of_words"):
            reason = "ignored, a bag of words has no blocks"
            raise ConfigError(field="model.text_activation", value=self.text_activation, reason=reason)
        self._check_execution()
        between("model.init_temperature", self.init_temperature, 1e-3, 1e3)
        at_least("model.max_logit_scale", self.max_logit_scale, 1 / self.init_temperature)
        for name, tower in (("image", self.image), ("text", self.text)):
            if not tower.projection and tower.width != self.embed_dim:
                reason = f"needs model.{name}.width = model.embed_dim"
                raise ConfigError(field=f"model.{name}.projection", value=False, reason=reason)
        if self.image.pool == "attentional" and self.embed_dim % self.image.pool_heads:
            reason = "must divide model.embed_dim"
            raise ConfigError(field="model.image.pool_heads", value=self.image.pool_heads, reason=reason)
        if self.decoder.depth:
            if self.image.pool != "attentional" or self.image.pool_queries < 2:
                reason = "needs model.image.pool='attentional' with two queries or more"
                raise ConfigError(field="model.decoder", reason=reason)
            if not self.decoder.width == self.embed_dim == self.text.width:
                raise ConfigError(field="model.decoder.width", reason="must be model.embed_dim and model.text.width")
        at_least("model.prefix_tokens", self.prefix_tokens, 1)
        at_least("model.vocab_chunk", self.vocab_chunk, 0)
        self._check_objective()
        if self.parametrization.kind == "mup":
            self._check_mup()

    def _check_execution(self) -> None:
        if self.attention == "cudnn" and self.compute_dtype not in ("bfloat16", "float16"):
            reason = f"takes bfloat16 and float16, and model.compute_dtype is {self.compute_dtype}"
            raise ConfigError(field="model.attention", value=self.attention, reason=reason)
        if self.attention == "xla" and self.compute_dtype == "float64":
            reason = "does not preserve float64; use auto"
            raise ConfigError(field="model.attention", value=self.attention, reason=reason)
        if not self.remat and self.remat_policy not in ("auto", "nothing"):
            reason = "ignored with model.remat=False"
            raise ConfigError(field="model.remat_policy", value=self.remat_policy, reason=reason)
        if self.image.stages and self.remat_policy in ("attention", "dense"):
            hint = "use nothing or dots"
            raise ConfigError(field="model.remat_policy", value=self.remat_policy, reason="not for a ResNet", hint=hint)

    def _check_objective(self) -> None:
        condition, text = f"with model.objective={self.objective!r}", self.text
        if self.objective != "caption":
            _ignored("model", condition, self, ModelConfig, ("prefix_tokens",))
        if self.objective == "contrastive":
            _ignored("model", condition, self, ModelConfig, ("vocab_chunk",))
            if self.decoder.depth and text.encoder != "transformer":
                reason = f"reads the states of a transformer, not of {text.encoder}"
                raise ConfigError(field="model.decoder", reason=reason)
            return
        _ignored("model", condition, self, ModelConfig, ("init_temperature", "max_logit_scale", "logit_bias"))
        if self.decoder.depth:
            raise ConfigError(field="model.decoder.depth", value=self.decoder.depth, reason=f"ignored {condition}")
        fields: tuple[str, ...] = ("encoder", "causal", "pool", "projection", "projection_bias")
        if self.objective == "bag_of_words":
            fields = ("encoder", "width", "depth", "heads", *_BLOCKS)
        _ignored("model.text", condition, text, TextTowerConfig, fields)

    def _check_mup(self) -> None:
        def refused(name: str, value: object, reason: str) -> ConfigError:
            return ConfigError(field=f"model.{name}", value=value, reason=f"model.parametrization.kind='mup' {reason}")

        if self.objective != "contrastive":
            raise refused("objective", self.objective, "has no table for the predictive heads; contrastive only")
        if self.image.stages:
            raise refused("image.stages", self.image.stages, "has no table for a ResNet; use a vision transformer")
        if self.image.pool not in ("cls", "avg"):
            raise refused("image.pool", self.image.pool, "has no table for pooling heads; cls or avg")
        for name, tower in (("image", self.image), ("text", self.text)):
            if not tower.projection:
                raise refused(f"{name}.projection", False, "grows width at a fixed model.embed_dim")
        if self.text.encoder == "bag_of_words" and self.parametrization.base_text_depth:
            reason = "ignored, a bag of words has no blocks"
            raise ConfigError(field="model.parametrization.base_text_depth", reason=reason)

    @property
    def activation_of_text(self) -> str:
        """Activation of the text tower."""
        return self.text_activation or self.activation

    @property
    def caption_tokens(self) -> int:
        """Number of positions of the caption language model: the prefix and all tokens but the last."""
        return self.prefix_tokens + self.text.context_length - 1
