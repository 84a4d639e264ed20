"""Checksums of arrays, computed on their devices and independent of the sharding.

A storage layer detects a truncated or missing file, but it may decode changed bytes inside compressed data as other
numbers without an error. So the checksums are saved with the arrays and compared after reading.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clip_jax.types import PyTree


def checksum(array: jax.Array) -> jax.Array:
    """Return a uint32 scalar: the sum, modulo 2**32, of every element's bits after mixing (MurmurHash3's finalizer).

    Integer addition is exact in any order, so every sharding gives the same sum.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


@jax.jit  # per leaf, so that leaves of one shape share a compilation
def _checksum_and_finite(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    finite = jnp.all(jnp.isfinite(array)) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.bool_(True)
    return checksum(array), finite


def checksums(parts: dict[str, PyTree]) -> dict[str, list[int]]:
    """Return the checksums of the leaves of each part; the arrays of all parts lie on one mesh."""
    return checksums_and_finite(parts)[0]


def checksums_and_finite(parts: dict[str, PyTree]) -> tuple[dict[str, list[int]], bool]:
    """Return (`checksums`, whether every floating-point number of all parts is finite)."""
    sums: dict[str, list[int]] = {}
    finite_so_far = True
    for name, part in parts.items():
        sums[name] = []
        for leaf in jax.tree.leaves(part):
            # sequentially: hundreds of small collectives in flight can starve the threads of a CPU backend
            total, finite = jax.device_get(_checksum_and_finite(leaf))
            sums[name].append(int(total))
            finite_so_far &= bool(finite)
    return sums, finite_so_far
