"""Sums over all pairs of a batch, block by block, on a ring of devices; the memory-efficient losses build on them.

Images stay on their device. Texts, with the sums over columns, are passed once around the ring. Each device holds one
chunk of one block of the logits at a time and keeps none for the backward pass, which goes around the ring again. On
one device the same code runs over chunks only.

The gradient follows from the equations: with S = scale · image @ text.T + bias and the cotangents of the sums, dS is
known block by block, so dimage = scale · dS @ text and dtext = scale · dS.T @ image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Axis = tuple[str, ...] | None  # mesh axes of the ring; None on one device
Tree = Any  # a pytree of arrays
Gradients = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # of image, text, scale, bias


def _round(
    block: Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]],
    fixed: Tree, rows: Tree, columns_fixed: Tree, columns: Tree, chunk: int, axis: Axis,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Visit every block of the matrix of pairs once and return the accumulated rows and columns.

    Args:
      block: function of a chunk, (row inputs, accumulated rows, column inputs, accumulated columns) -> (rows, columns).
      fixed, rows: pytrees of [m, ...] that stay on the device: inputs of ``block``, and accumulators.
      columns_fixed, columns: pytrees of [k, ...] that are passed around the ring, likewise; so are scalars in
        ``columns``.
      chunk: rows per call of ``block`` at most.
      axis: mesh axes of the ring; None on one device.
    """
    count = jax.tree.leaves(fixed)[0].shape[0]
    chunk = min(chunk, count)
    parts = -(-count // chunk)
    while count % parts:  # equal chunks, none larger than asked for
        parts += 1

    def split(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: x.reshape(parts, count // parts, *x.shape[1:]), tree)

    def visit(rows: Tree, columns_fixed: Tree, columns: Tree) -> tuple[Tree, Tree]:
        def step(columns: Tree, part: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            rows, columns = block(*part, columns_fixed, columns)
            return columns, rows

        columns, rows = jax.lax.scan(step, columns, (split_fixed, rows))
        return rows, columns

    split_fixed = split(fixed)
    rows = split(rows)
    if axis is None:
        rows, columns = visit(rows, columns_fixed, columns)
    else:
        size = jax.lax.axis_size(axis)
        ring = [(i, (i + 1) % size) for i in range(size)]

        def turn(carry: tuple[Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree], None]:
            rows, columns_fixed, columns = carry
            onward = jax.lax.ppermute(columns_fixed, axis, ring)  # overlaps with the computation of the block
            rows, columns = visit(rows, columns_fixed, columns)
            return (rows, onward, jax.lax.ppermute(columns, axis, ring)), None

        (rows, _, columns), _ = jax.lax.scan(turn, (rows, columns_fixed, columns), None, length=size)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), rows), columns


def _logits(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    cosines = image @ text.T
    return cosines, scale * cosines + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _logsumexp(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, chunk: int, axis: Axis
) -> tuple[jax.Array, jax.Array]:
    def block(image: jax.Array, rows: jax.Array, text: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, logits = _logits(image, text, scale, bias)
        rows = jnp.logaddexp(rows, jax.nn.logsumexp(logits, axis=1))
        return rows, jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0))

    nothing = jnp.full_like(image[:, 0], -jnp.inf), jnp.full_like(text[:, 0], -jnp.inf)
    return _round(block, image, nothing[0], text, nothing[1], chunk, axis)


def _logsumexp_fwd(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, chunk: int, axis: Axis
) -> tuple[Tree, Tree]:
    out = _logsumexp(image, text, scale, bias, chunk, axis)
    return out, (image, text, scale, bias, *out)


def _logsumexp_bwd(chunk: int, axis: Axis, saved: Tree, cotangents: Tree) -> Gradients:
    image, text, scale, bias, rows, columns = saved
    of_rows, of_columns = cotangents

    def slope(fixed: Tree, column: Tree, logits: jax.Array) -> jax.Array:
        _, rows, of_rows = fixed
        _, columns, of_columns = column
        return of_rows[:, None] * jnp.exp(logits - rows[:, None]) + of_columns[None] * jnp.exp(logits - columns[None])

    return _backward(slope, (image, rows, of_rows), (text, columns, of_columns), scale, bias, chunk, axis)


def _backward(
    slope: Callable[[Tree, Tree, jax.Array], jax.Array], fixed: Tree, columns: Tree,
    scale: jax.Array, bias: jax.Array, chunk: int, axis: Axis,
) -> Gradients:  # fmt: skip
    """Compute the cotangents of image, text, scale and bias from the gradient dS of each block."""

    def block(fixed: Tree, dimage: jax.Array, column: Tree, sums: Tree) -> tuple[jax.Array, Tree]:
        image, text, (dtext, dscale, dbias) = fixed[0], column[0], sums
        cosines, logits = _logits(image, text, scale, bias)
        d = slope(fixed, column, logits)
        sums = dtext + scale * (d.T @ image), dscale + jnp.sum(d * cosines), dbias + jnp.sum(d)
        return dimage + scale * (d @ text), sums

    sums = (jnp.zeros_like(columns[0]), jnp.zeros_like(scale), jnp.zeros_like(bias))
    dimage, (dtext, dscale, dbias) = _round(block, fixed, jnp.zeros_like(fixed[0]), columns, sums, chunk, axis)
    return dimage, dtext, dscale, dbias


_logsumexp.defvjp(_logsumexp_fwd, _logsumexp_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _softplus_sums(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, chunk: int, axis: Axis
) -> jax.Array:
    def block(image: jax.Array, rows: jax.Array, text: jax.Array, nothing: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, logits = _logits(image, text, scale, bias)
        return rows + jnp.sum(jax.nn.softplus(logits), axis=1), nothing

    return _round(block, image, jnp.zeros_like(image[:, 0]), text, jnp.zeros_like(bias), chunk, axis)[0]


def _softplus_sums_fwd(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, chunk: int, axis: Axis
) -> tuple[Tree, Tree]:
    return _softplus_sums(image, text, scale, bias, chunk, axis), (image, text, scale, bias)


def _softplus_sums_bwd(chunk: int, axis: Axis, saved: Tree, of_rows: jax.Array) -> Gradients:
    image, text, scale, bias = saved

    def slope(fixed: Tree, column: Tree, logits: jax.Array) -> jax.Array:
        return fixed[1][:, None] * jax.nn.sigmoid(logits)

    return _backward(slope, (image, of_rows), (text,), scale, bias, chunk, axis)


_softplus_sums.defvjp(_softplus_sums_fwd, _softplus_sums_bwd)


def _as_varying(x: jax.Array, axis: Axis) -> jax.Array:
    """Cast a replicated value to a device-varying one, so that its cotangents are summed over the devices."""
    return x if axis is None else jax.lax.pcast(x, axis, to="varying")


def sharded_loss(local: Callable[..., jax.Array], mesh: Mesh, *arguments: jax.Array) -> jax.Array:
    """Apply ``local`` on every device to its rows of the embeddings, the first two arguments, and to the scalars.

    Returns:
      The loss [], which ``local`` has reduced over all axes of ``mesh``.
    """
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    specs = (split, split, *[whole] * (len(arguments) - 2))
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole)(*arguments)


def pairwise_logsumexp(
    image: Float[Array, "m e"], text: Float[Array, "m e"], scale: Float[Array, ""], *, chunk: int, axis: Axis = None
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Compute log Σ exp of the logits scale · image @ text.T over all texts, and over all images.

    Args:
      image, text: this device's embeddings [m, E].
      scale: [].
      chunk: rows of logits held at once.
      axis: inside `jax.shard_map`, the mesh axes that the rows are split over; None on one device.

    Returns:
      [m] for this device's images (over all texts) and [m] for its texts (over all images).
    """
    scale = _as_varying(scale, axis)
    return _logsumexp(image, text, scale, jnp.zeros_like(scale), chunk, axis)


def pairwise_softplus(
    image: Float[Array, "m e"],
    text: Float[Array, "m e"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    chunk: int,
    axis: Axis = None,
) -> Float[Array, " m"]:
    """Compute Σ log(1 + exp) of the logits scale · image @ text.T + bias over all texts, [m] for this device's images.

    Arguments are those of `pairwise_logsumexp`; bias is [].
    """
    return _softplus_sums(image, text, _as_varying(scale, axis), _as_varying(bias, axis), chunk, axis)
