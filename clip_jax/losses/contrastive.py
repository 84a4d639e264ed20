"""The softmax contrastive loss (InfoNCE; van den Oord et al., 2018; Radford et al., 2021, figure 3).

Every pair of the *global* batch is a negative of every other, on however many devices the batch lies. Three forms of
one number: dense (the reference), gathered, and the ring.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.losses.ring import Axis, pairwise_logsumexp


def dense_contrastive_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """The reference: embeddings [B, E] of unit length, scale [] -> the mean of both directions, nats [].

    The whole [B, B] matrix is formed on every device.
    """
    logits = logit_scale * (image @ text.T)
    own = jnp.diagonal(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean((rows + columns) / 2 - own)


def gathered_contrastive_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Equal to `dense_contrastive_loss`; each device forms only its own [B/devices, B] rows and columns.

    The other side's embeddings are gathered, B·E numbers a device.
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
        own = scale * jnp.sum(image * text, axis=-1)
        all_image, all_text = (jax.lax.all_gather(x, mesh.axis_names, tiled=True) for x in (image, text))
        rows = jax.nn.logsumexp(scale * (image @ all_text.T), axis=1)
        columns = jax.nn.logsumexp(scale * (text @ all_image.T), axis=1)
        return jax.lax.pmean(jnp.mean((rows + columns) / 2 - own), mesh.axis_names)

    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole), out_specs=whole)(image, text, logit_scale)


def ring_contrastive_loss(
    image: jax.Array, text: jax.Array, logit_scale: jax.Array, *, mesh: Mesh, chunk: int = 256
) -> jax.Array:
    """Equal to `dense_contrastive_loss`; a device holds ``chunk`` rows of one [B/devices, B/devices] block at once.

    Texts go round the ring of devices, forward and again backward, B/devices·E numbers a turn; nothing is gathered and
    no logits are kept. Embeddings [B, E] are split over all mesh axes, ``tensor`` too.
    """

    def local(image: jax.Array, text: jax.Array, scale: jax.Array, axis: Axis = mesh.axis_names) -> jax.Array:
        rows, columns = pairwise_logsumexp(image, text, scale, chunk=chunk, axis=axis)
        own = scale * jnp.sum(image * text, axis=-1)
        mean = jnp.mean((rows + columns) / 2 - own)
        return mean if axis is None else jax.lax.pmean(mean, axis)

    if mesh.size == 1:
        return local(image, text, logit_scale, None)
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole), out_specs=whole)(image, text, logit_scale)
