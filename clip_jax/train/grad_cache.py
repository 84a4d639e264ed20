"""Gradients of the training loss: of the whole batch at once, or exactly the same ones accumulated by GradCache.

The contrastive loss couples all pairs, so averaging over microbatches would be another objective. GradCache (Gao et
al., 2021, "Scaling deep contrastive learning batch size under memory limited setup") embeds every microbatch and keeps
only the embeddings; takes the loss over the whole batch and its gradient with respect to the embeddings; then embeds
every microbatch again and backpropagates that gradient through the towers. One more forward pass allows a batch of any
size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from clip_jax.config import RunConfig
from clip_jax.data.images.train_transforms import normalize
from clip_jax.distributed.mesh import batch_shards, constrain, on_mesh
from clip_jax.losses.pairs import PairLoss, make_pair_loss
from clip_jax.models.clip import AbstractModel, normalize_features
from clip_jax.optim.stochastic_rounding import widen
from clip_jax.types import Params

Batch = dict[str, jax.Array]
Auxiliary = tuple[jax.Array, Params]  # logit scale, running statistics
# (params, batch, key) -> (loss, auxiliary)
LossFunction = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Auxiliary]]
# (params, batch, key, loss scale or None) -> ((loss, auxiliary), gradients)
Gradients = Callable[[Params, Batch, jax.Array, jax.Array | None], tuple[tuple[jax.Array, Auxiliary], Params]]


def map_tower(params: Params, tower: str, function: Callable[[jax.Array], jax.Array]) -> Params:
    """Apply ``function`` to the leaves of one tower of the parameters; "none" changes nothing."""

    def apply(path: tuple[jax.tree_util.KeyEntry, ...], leaf: jax.Array) -> jax.Array:
        return function(leaf) if jax.tree_util.keystr(path[:1], simple=True) == tower else leaf

    return params if tower == "none" else jax.tree_util.tree_map_with_path(apply, params)


def example_keys(rng: jax.Array, batch_size: int) -> jax.Array:
    """Return one random key per example [B]; an example's randomness depends only on its position in the batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch_size))


def _divided(grads: Params, factor: jax.Array | None) -> Params:
    return grads if factor is None else jax.tree.map(lambda g: g / factor, widen(grads))


def full_batch_gradients(loss_fn: LossFunction) -> Gradients:
    """Return the gradient function with one backward pass, the plain twin of `make_accumulated_gradients`.

    The loss is multiplied by the loss scale before the backward pass and the gradients are divided by it after, so that
    half-precision gradients do not underflow.
    """

    def scaled(
        params: Params, batch: Batch, rng: jax.Array, factor: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, Auxiliary]]:
        loss, extra = loss_fn(params, batch, rng)
        return (loss if factor is None else loss * factor), (loss, extra)

    def gradients(
        params: Params, batch: Batch, rng: jax.Array, factor: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, Auxiliary], Params]:
        (_, outputs), grads = jax.value_and_grad(scaled, has_aux=True)(params, batch, rng, factor)
        return outputs, _divided(grads, factor)

    return gradients


def make_accumulated_gradients(
    config: RunConfig, built: AbstractModel, mesh: Mesh, pair_loss: PairLoss | None = None
) -> Gradients:
    """Return a gradient function equal to `full_batch_gradients`, with one microbatch's activations in memory.

    A microbatch has ``config.microbatch_size`` pairs. Every device works on its own rows in each of them, so no rows
    move between devices. Gradients are accumulated in float32 (or wider). ``pair_loss`` as in `step.make_loss`.
    """
    freeze, pair_loss = config.init_from.freeze_tower, pair_loss or make_pair_loss(config.loss, mesh)
    pieces, shards = config.batch_size // config.microbatch_size, batch_shards(mesh)

    def split(x: jax.Array) -> jax.Array:
        """Reshape [B, ...] to [pieces, B / pieces, ...]; piece i has the i-th share of each device's rows."""
        rest = [None] * (x.ndim - 1)
        parts = x.reshape(shards, pieces, -1, *x.shape[1:]).swapaxes(0, 1)
        return constrain(parts.reshape(pieces, -1, *x.shape[1:]), None, "batch", *rest)

    def join(x: jax.Array) -> jax.Array:
        """Invert ``split``."""
        parts = x.reshape(pieces, shards, -1, *x.shape[2:]).swapaxes(0, 1)
        return constrain(parts.reshape(-1, *x.shape[2:]), "batch", *[None] * (x.ndim - 2))

    def embed(params: Params, piece: Batch) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(built.graphdef, map_tower(params, freeze, jax.lax.stop_gradient))
        images = normalize(piece["images"], config.pixels.mean, config.pixels.std)
        image = model.encode_image(images, train=freeze != "image", rng=piece["keys"])
        return normalize_features(image), normalize_features(model.encode_text(piece["tokens"]))

    def from_embeddings(params: Params, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale, bias = nnx.merge(built.graphdef, params).scale_and_bias()
        return pair_loss(image, text, scale, bias), scale

    def gradients(
        params: Params, batch: Batch, rng: jax.Array, factor: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, Auxiliary], Params]:
        with on_mesh(mesh):
            microbatches = jax.tree.map(split, batch | {"keys": example_keys(rng, config.batch_size)})
            image, text = jax.tree.map(join, jax.lax.map(lambda piece: embed(params, piece), microbatches))
            whole = jax.value_and_grad(from_embeddings, (0, 1, 2), has_aux=True)
            (loss, scale), (grads, *embedding_grads) = whole(params, image, text)
            by_image, by_text = (split(s if factor is None else s * factor) for s in embedding_grads)

            def add(grads: Params, piece: tuple[Batch, jax.Array, jax.Array]) -> tuple[Params, None]:
                microbatch, *cotangents = piece
                _, backward = jax.vjp(lambda params: embed(params, microbatch), params)
                return jax.tree.map(lambda a, g: a + g, grads, widen(*backward(tuple(cotangents)))), None

            grads = jax.tree.map(lambda g: g if factor is None else g * factor, widen(grads))
            grads, _ = jax.lax.scan(add, grads, (microbatches, by_image, by_text))
        return (loss, (scale, {})), _divided(grads, factor)

    return gradients
