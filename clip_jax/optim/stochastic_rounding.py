"""Stochastic rounding, with which half-precision numbers can move by less than half a unit in the last place."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

T = TypeVar("T")

HALF = (jnp.bfloat16, jnp.float16)


def is_half(dtype: DTypeLike) -> bool:
    """Return whether ``dtype`` is bfloat16 or float16."""
    return jnp.dtype(dtype) in HALF


def stochastic_round(x: jax.Array, dtype: DTypeLike, key: jax.Array) -> jax.Array:
    """Round float32 ``x`` to bfloat16 or float16, up or down at random such that the mean equals ``x``.

    Random bits are added below the last kept bit, then the bits below it are truncated. float16 has fewer exponents:
    below 2^-14 its spacing is constant, 2^-24, and values beyond its largest number are clipped to it. Infinity and NaN
    are unchanged.
    """
    dtype = jnp.dtype(dtype)
    cut = 16 if dtype == jnp.bfloat16 else 13
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32) >> (16 - cut)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFFFFF << cut & 0xFFFFFFFF), jnp.float32)
    if dtype == jnp.float16:
        step = 2.0**-24
        small = jnp.floor(x / step + noise.astype(jnp.float32) / 2**cut) * step
        rounded = jnp.where(jnp.abs(x) < 2.0**-14, small, rounded)
        rounded = jnp.clip(rounded, -65504.0, 65504.0)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)


def narrow(tree: T, like: object, key: jax.Array | None) -> T:
    """Cast leaves to the dtypes of ``like``; half precision by `stochastic_round`, or to nearest if ``key`` is None."""
    leaves, structure = jax.tree.flatten(tree)
    targets = jax.tree.leaves(like)

    def cast(index: int, leaf: jax.Array, dtype: DTypeLike) -> jax.Array:
        if key is None or not is_half(dtype):
            return leaf.astype(dtype)
        return stochastic_round(leaf, dtype, jax.random.fold_in(key, index))

    narrowed = [cast(i, leaf, t.dtype) for i, (leaf, t) in enumerate(zip(leaves, targets, strict=True))]
    return jax.tree.unflatten(structure, narrowed)


def widen(tree: T) -> T:
    """Cast half-precision leaves to float32; leave others unchanged."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if is_half(x.dtype) else x, tree)
