"""The predictive objectives of Radford et al., 2021, figure 2: an image tower with a head that predicts the caption.

``caption``: the image features become the first tokens of a causal transformer that generates the caption.
``bag_of_words``: a linear classifier over the vocabulary predicts the set of the caption's words (Joulin et al., 2016).
Both end in one product with the vocabulary. The loss computes it (`losses.predictive`), so that the full logits
[B, T, V] need never be materialized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.errors import ConfigError
from clip_jax.models.layers import layer_norm, named_param, normal
from clip_jax.models.text import distinct_words, text_blocks, text_param_dtype
from clip_jax.models.towers import image_tower

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key


class TokenPrediction(NamedTuple):
    """Predictions and labels of a batch, with R rows per pair and L labels per row.

    The logits of a row are ``states @ kernel + bias`` over V tokens; ``weights`` are the weights of its labels. The
    loss is the weighted mean of -log softmax over all labels.
    """

    states: jax.Array  # [B, R, D]
    head: tuple[jax.Array, jax.Array | None]  # kernel [D, V], bias [V]
    labels: jax.Array  # int32 [B, R, L]
    weights: jax.Array  # float32 [B, R, L]


class CaptionTransformer(nnx.Module):
    """Caption language model: from P prefix tokens and a text to the states that predict each token after the first.

    The positions of the sequence are the prefix and all tokens but the last, which predicts nothing. The output matrix
    is the token embedding (Press & Wolf, 2017).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c, e, param_dtype = config.text, config.embed_dim, text_param_dtype(config)
        axes = ("joint", None, "embed")
        self.prefix = named_param(normal(e**-0.5), (e, config.prefix_tokens, c.width), axes, param_dtype, rngs)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        shape = (config.caption_tokens, c.width)
        self.position = named_param(normal(0.01), shape, ("position", "embed"), param_dtype, rngs)
        self.blocks = text_blocks(config, rngs)
        self.ln_final = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs, eps=c.norm_eps)
        self.config, self.dtype = config, jnp.dtype(config.compute_dtype)

    def prefix_of(self, features: jax.Array) -> jax.Array:
        """Map image features [B, E] to prefix tokens [B, P, D]."""
        return jnp.einsum("be,epd->bpd", features, self.prefix[...].astype(self.dtype))

    def states(self, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
        """Return the states [B, T - 1, D] for prefix [B, P, D] and tokens int32 [B, T]; row t predicts token t + 1.

        T may be below the context length, because later tokens cannot be attended to. Raises ValueError if it is above.
        """
        length = tokens.shape[1]
        if length > self.config.text.context_length:
            raise ValueError(f"tokens of shape {tokens.shape}: at most {self.config.text.context_length} a text")
        x = jnp.concatenate([prefix, self.token[...][tokens[:, :-1]].astype(self.dtype)], axis=1)
        x = x + self.position[...][: x.shape[1]].astype(self.dtype)[None]
        x = self.blocks(x)[:, prefix.shape[1] :]
        return self.ln_final(x).astype(self.dtype)

    def predict(self, prefix: jax.Array, tokens: jax.Array) -> TokenPrediction:
        """Return the `TokenPrediction`; every token after the first that is not padding has weight 1."""
        labels = tokens[:, 1:, None]
        weights = (labels != self.config.text.pad_id).astype(jnp.float32)
        return TokenPrediction(
            self.states(prefix, tokens), (self.token[...].T.astype(self.dtype), None), labels, weights
        )


class BagOfWordsHead(nnx.Module):
    """Linear head from image features [B, E] to a softmax over the vocabulary, with a uniform target over the words.

    The loss is the multinomial one of Joulin et al., 2016; the uniform target is that of Mahajan et al., 2018.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        e, v, param_dtype = config.embed_dim, config.text.vocab_size, text_param_dtype(config)
        self.kernel = named_param(normal(0.02), (e, v), ("embed", "vocab"), param_dtype, rngs)
        self.bias = named_param(nnx.initializers.zeros, (v,), ("vocab",), param_dtype, rngs)
        self.config, self.dtype = config.text, jnp.dtype(config.compute_dtype)

    def head(self) -> tuple[jax.Array, jax.Array]:
        """Return the kernel [E, V] and bias [V] in the compute dtype."""
        return self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)

    def predict(self, features: jax.Array, tokens: jax.Array) -> TokenPrediction:
        """Return the `TokenPrediction`; a caption's words have weights that sum to 1, one without words only zeros."""
        words = distinct_words(tokens, self.config).astype(jnp.float32)
        weights = words / jnp.maximum(jnp.sum(words, axis=1, keepdims=True), 1)
        return TokenPrediction(features[:, None], self.head(), tokens[:, None], weights[:, None])


class Predictive(nnx.Module):
    """An image tower (``image``, the same as CLIP's) and a head (``text``) for ``config.objective``.

    Raises ConfigError for the contrastive objective.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        if config.objective == "contrastive":
            reason = "must be a predictive objective"
            hint = "use make_model for contrastive models"
            raise ConfigError(field="model.objective", value="contrastive", reason=reason, hint=hint)
        self.image = image_tower(config, rngs)
        head = CaptionTransformer if config.objective == "caption" else BagOfWordsHead
        self.text: Any = head(config, rngs=rngs)
        self.config = config

    def encode_image(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b e"]:
        """Encode normalized images float [B, H, W, 3] to image features [B, E], as `CLIP.encode_image` does."""
        return self.image(images, train=train, rng=rng)

    def context(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, rng: Key[Array, " b"] | None = None
    ) -> jax.Array:
        """Return the head's input: prefix tokens [B, P, D], or image features [B, E] for a bag of words."""
        features = self.encode_image(images, train=train, rng=rng)
        return self.text.prefix_of(features) if self.config.objective == "caption" else features

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        tokens: Int[Array, "b t"],
        *,
        train: bool = False,
        rng: Key[Array, " b"] | None = None,
    ) -> TokenPrediction:
        """Predict the captions: normalized images [B, H, W, 3] and tokens int32 [B, T] -> `TokenPrediction`."""
        return self.text.predict(self.context(images, train=train, rng=rng), tokens)

    def logits(self, images: Float[Array, "b h w 3"], tokens: Int[Array, "b t"]) -> Float[Array, "b r v"]:
        """Return all logits over the vocabulary: [B, T - 1, V] (row t predicts token t + 1), or [B, 1, V] for a bag."""
        states, (kernel, bias), *_ = self(images, tokens)
        logits = states @ kernel
        return logits if bias is None else logits + bias[None, None]
