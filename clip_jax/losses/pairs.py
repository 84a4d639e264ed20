"""Selection of the contrastive loss that a config names."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.config import LossConfig
from clip_jax.config.run import LOSSES
from clip_jax.errors import UserError
from clip_jax.losses.contrastive import dense_contrastive_loss, gathered_contrastive_loss, ring_contrastive_loss
from clip_jax.losses.sigmoid import dense_sigmoid_loss, gathered_sigmoid_loss, ring_sigmoid_loss
from clip_jax.plugins import load

PairLoss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
SMALL_BATCH = 4096  # pairs up to which `auto` forms whole rows of logits: at most 64 MiB per device


def checked_loss(loss: PairLoss, field: str, name: str) -> PairLoss:
    """Return a loss that raises UserError, when it is compiled, unless its value is one float.

    Args:
      loss: the function.
      field: the setting that chose it, for the error message.
      name: what that setting says.
    """

    def checked(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        value = jnp.asarray(loss(image, text, scale, bias))
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise UserError(field=field, value=name, reason=f"returns {value.dtype}{list(value.shape)}, not one float")
        return value

    return checked


def make_pair_loss(config: LossConfig, mesh: Mesh) -> PairLoss:
    """Return the loss function for a config and mesh.

    Args:
      config: kind and implementation; ``method="auto"`` takes the ring above `SMALL_BATCH` pairs. A kind that an
        installed package adds is that function itself.
      mesh: the devices that the batch is split over.

    Returns:
      A function (image [B, E], text [B, E], scale [], bias []) -> loss [] over the global batch in nats. Embeddings
      have unit length and are split over the mesh. The softmax loss ignores the bias.
    """
    if config.name not in LOSSES:
        return checked_loss(cast(PairLoss, load("loss.name", config.name, "losses")), "loss.name", config.name)
    sigmoid = config.name == "sigmoid"

    def loss(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        method = config.implementation
        if method == "auto":
            method = "ring" if image.shape[0] > SMALL_BATCH else "gathered"
        if method == "gathered" and mesh.size == 1:
            method = "dense"
        if method == "ring":
            if sigmoid:
                return ring_sigmoid_loss(image, text, scale, bias, mesh=mesh, chunk=config.chunk_size)
            return ring_contrastive_loss(image, text, scale, mesh=mesh, chunk=config.chunk_size)
        if method == "gathered":
            if sigmoid:
                return gathered_sigmoid_loss(image, text, scale, bias, mesh=mesh)
            return gathered_contrastive_loss(image, text, scale, mesh=mesh)
        return dense_sigmoid_loss(image, text, scale, bias) if sigmoid else dense_contrastive_loss(image, text, scale)

    return loss
