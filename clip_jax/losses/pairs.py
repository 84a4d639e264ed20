"""The contrastive loss that a config asks for, as one function of embeddings."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from clip_jax.config import LossConfig
from clip_jax.losses.contrastive import dense_contrastive_loss, gathered_contrastive_loss, ring_contrastive_loss
from clip_jax.losses.sigmoid import dense_sigmoid_loss, gathered_sigmoid_loss, ring_sigmoid_loss

PairLoss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
SMALL_BATCH = 4096  # pairs up to which `auto` keeps whole rows of logits: at most 64 MiB a device


def make_pair_loss(config: LossConfig, mesh: Mesh) -> PairLoss:
    """(image [B, E], text [B, E], scale [], bias []) -> loss [] over the global batch, nats.

    Embeddings have unit length and are split over the mesh. The softmax does not look at the bias.
    """
    sigmoid = config.kind == "sigmoid"

    def loss(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        method = config.method
        if method == "auto":
            method = "ring" if image.shape[0] > SMALL_BATCH else "gathered"
        if method == "gathered" and mesh.size == 1:
            method = "dense"
        if method == "ring":
            if sigmoid:
                return ring_sigmoid_loss(image, text, scale, bias, mesh=mesh, chunk=config.chunk)
            return ring_contrastive_loss(image, text, scale, mesh=mesh, chunk=config.chunk)
        if method == "gathered":
            if sigmoid:
                return gathered_sigmoid_loss(image, text, scale, bias, mesh=mesh)
            return gathered_contrastive_loss(image, text, scale, mesh=mesh)
        return dense_sigmoid_loss(image, text, scale, bias) if sigmoid else dense_contrastive_loss(image, text, scale)

    return loss
