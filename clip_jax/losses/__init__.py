"""Losses as functions of embeddings: dense references, and equal multi-device implementations."""

from clip_jax.losses.contrastive import dense_contrastive_loss, gathered_contrastive_loss, ring_contrastive_loss
from clip_jax.losses.pairs import make_pair_loss
from clip_jax.losses.sigmoid import dense_sigmoid_loss, gathered_sigmoid_loss, ring_sigmoid_loss

__all__ = [
    "dense_contrastive_loss", "dense_sigmoid_loss", "gathered_contrastive_loss", "gathered_sigmoid_loss",
    "make_pair_loss", "ring_contrastive_loss", "ring_sigmoid_loss",
]  # fmt: skip
