"""The predictive objectives of Radford et al., 2021, figure 2: an image tower, and a head that says the caption.

``caption``: the image features become the first tokens of a causal transformer that continues with the caption.
``bag_of_words``: a linear classifier over the vocabulary says which words the caption has, in no order (Joulin et al.,
2016). Both end in one product with the vocabulary, which the loss forms (`losses.predictive`), so that the full logits
[B, T, V] need never exist.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.errors import ConfigError
from clip_jax.models.layers import layer_norm, named_param, normal
from clip_jax.models.text import distinct_words, text_blocks, text_param_dtype
from clip_jax.models.towers import image_tower


class Prediction(NamedTuple):
    """What is said of a batch, and what should have been said. R rows a pair, L labels a row.

    The logits of a row are ``states @ kernel + bias``, over V tokens; ``weights`` says how much each of its labels
    counts. The loss is the weighted mean of -log softmax over all of them.
    """

    states: jax.Array  # [B, R, D]
    head: tuple[jax.Array, jax.Array | None]  # kernel [D, V], bias [V]
    labels: jax.Array  # int32 [B, R, L]
    weights: jax.Array  # float32 [B, R, L]


class CaptionTransformer(nnx.Module):
    """P prefix tokens and text -> the states that predict the text, one a token after the first.

    The places of the sequence are the prefix and all tokens but the last, which predicts nothing. The output matrix is
    the token embedding (Press & Wolf, 2017).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c, e, param_dtype = config.text, config.embed_dim, text_param_dtype(config)
        axes = ("joint", None, "embed")
        self.prefix = named_param(normal(e**-0.5), (e, config.prefix_tokens, c.width), axes, param_dtype, rngs)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        places = (config.caption_tokens, c.width)
        self.position = named_param(normal(0.01), places, ("position", "embed"), param_dtype, rngs)
        self.blocks = text_blocks(config, rngs)
        self.ln_final = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs, eps=c.norm_eps)
        self.config, self.dtype = config, jnp.dtype(config.compute_dtype)

    def prefix_of(self, features: jax.Array) -> jax.Array:
        """Image features [B, E] -> prefix tokens [B, P, D]."""
        return jnp.einsum("be,epd->bpd", features, self.prefix[...].astype(self.dtype))

    def states(self, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
        """Prefix [B, P, D] and tokens int32 [B, T] -> [B, T - 1, D]; row t predicts token t + 1.

        T may be below the context length: what is cut off could not be seen. Raises ValueError when it is above.
        """
        length = tokens.shape[1]
        if length > self.config.text.context_length:
            raise ValueError(f"tokens of shape {tokens.shape}: at most {self.config.text.context_length} a text")
        x = jnp.concatenate([prefix, self.token[...][tokens[:, :-1]].astype(self.dtype)], axis=1)
        x = x + self.position[...][: x.shape[1]].astype(self.dtype)[None]
        x = self.blocks(x)[:, prefix.shape[1] :]
        return self.ln_final(x).astype(self.dtype)

    def predict(self, prefix: jax.Array, tokens: jax.Array) -> Prediction:
        """Every token after the first that is no padding counts 1."""
        labels = tokens[:, 1:, None]
        weights = (labels != self.config.text.pad_id).astype(jnp.float32)
        return Prediction(self.states(prefix, tokens), (self.token[...].T.astype(self.dtype), None), labels, weights)


class BagOfWordsHead(nnx.Module):
    """Image features [B, E] -> a softmax over the vocabulary; the target is spread evenly over the distinct words.

    Of the losses of Joulin et al., 2016, the multinomial one; the even target is that of Mahajan et al., 2018.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        e, v, param_dtype = config.embed_dim, config.text.vocab_size, text_param_dtype(config)
        self.kernel = named_param(normal(0.02), (e, v), ("embed", "vocab"), param_dtype, rngs)
        self.bias = named_param(nnx.initializers.zeros, (v,), ("vocab",), param_dtype, rngs)
        self.config, self.dtype = config.text, jnp.dtype(config.compute_dtype)

    def head(self) -> tuple[jax.Array, jax.Array]:
        """Kernel [E, V] and bias [V]."""
        return self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)

    def predict(self, features: jax.Array, tokens: jax.Array) -> Prediction:
        """The weights of a caption's words sum to 1; a caption without words has none."""
        words = distinct_words(tokens, self.config).astype(jnp.float32)
        weights = words / jnp.maximum(jnp.sum(words, axis=1, keepdims=True), 1)
        return Prediction(features[:, None], self.head(), tokens[:, None], weights[:, None])


class Predictive(nnx.Module):
    """An image tower (``image``, the same as CLIP's) and a head (``text``) for ``config.objective``.

    Raises ConfigError for the contrastive objective.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        if config.objective == "contrastive":
            raise ConfigError("model.objective='contrastive': is CLIP's; build it with make_model")
        self.image: Any = image_tower(config, rngs)
        head = CaptionTransformer if config.objective == "caption" else BagOfWordsHead
        self.text: Any = head(config, rngs=rngs)
        self.config = config

    def encode_image(self, images: jax.Array, *, train: bool = False, rng: jax.Array | None = None) -> jax.Array:
        """Normalised images float [B, H, W, 3] -> image features [B, E]; as `CLIP.encode_image`."""
        return self.image(images, train=train, rng=rng)

    def context(self, images: jax.Array, *, train: bool = False, rng: jax.Array | None = None) -> jax.Array:
        """What the head sees of images: prefix tokens [B, P, D], or features [B, E] for a bag of words."""
        features = self.encode_image(images, train=train, rng=rng)
        return self.text.prefix_of(features) if self.config.objective == "caption" else features

    def __call__(
        self, images: jax.Array, tokens: jax.Array, *, train: bool = False, rng: jax.Array | None = None
    ) -> Prediction:
        """Normalised images [B, H, W, 3] and tokens int32 [B, T] -> `Prediction`."""
        return self.text.predict(self.context(images, train=train, rng=rng), tokens)

    def logits(self, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """All logits over the vocabulary, [B, T - 1, V] (row t predicts token t + 1), or [B, 1, V] of a bag."""
        states, (kernel, bias), *_ = self(images, tokens)
        logits = states @ kernel
        return logits if bias is None else logits + bias[None, None]
