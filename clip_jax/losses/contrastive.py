"""The softmax contrastive loss (InfoNCE; van den Oord et al., 2018; Radford et al., 2021, figure 3).

Every pair of the *global* batch is a negative of every other, on however many devices the batch lies.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.parallel import BATCH_AXES


def dense_contrastive_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """The reference: embeddings [B, E] of unit length, scale [] -> the mean of both directions, nats [].

    The whole [B, B] matrix is formed on every device.
    """
    logits = logit_scale * (image @ text.T)
    own = jnp.diagonal(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean((rows + columns) / 2 - own)


def sharded_contrastive_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Equal to `dense_contrastive_loss`; each device forms only its own [B/devices, B] rows and columns.

    Embeddings [B, E] are split over both mesh axes; the other side is gathered, B·E numbers a device.
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
        mine = image.shape[0]
        own = scale * jnp.sum(image * text, axis=-1)
        all_image, all_text = (jax.lax.all_gather(x, BATCH_AXES, tiled=True) for x in (image, text))
        rows = jax.nn.logsumexp(scale * (image @ all_text.T), axis=1)
        columns = jax.nn.logsumexp(scale * (text @ all_image.T), axis=1)
        total = jax.lax.psum(jnp.sum((rows + columns) / 2 - own), BATCH_AXES)
        return total / (mine * jax.lax.axis_size(BATCH_AXES))

    if mesh.size == 1:
        return dense_contrastive_loss(image, text, logit_scale)
    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole), out_specs=whole)
    return sharded(image, text, logit_scale)
