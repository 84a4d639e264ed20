"""Checksums of arrays, computed where they lie, that do not depend on how they are sharded.

A storage layer finds a file that is cut short or missing; bytes that changed inside compressed data it may read without
complaint, as other numbers. So the sums are saved beside the arrays and compared after reading.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def checksum(array: jax.Array) -> jax.Array:
    """A uint32 scalar: the sum, modulo 2**32, of every element's bits after mixing (the finaliser of MurmurHash3).

    Integer addition is exact in any order, so every sharding gives the same sum.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


@jax.jit  # leaf by leaf: the many of one shape compile once
def _look(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    finite = jnp.all(jnp.isfinite(array)) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.bool_(True)
    return checksum(array), finite


def seals(parts: dict[str, Any]) -> dict[str, list[int]]:
    """Of each part (arrays on one mesh), the checksums of its leaves."""
    return seals_and_finite(parts)[0]


def seals_and_finite(parts: dict[str, Any]) -> tuple[dict[str, list[int]], bool]:
    """`seals`, and whether every floating-point number of all parts is finite."""
    sums: dict[str, list[int]] = {}
    fine = True
    for name, part in parts.items():
        sums[name] = []
        for leaf in jax.tree.leaves(part):
            # one after the other: hundreds of small collectives in flight can starve the threads of a CPU backend
            total, finite = jax.device_get(_look(leaf))
            sums[name].append(int(total))
            fine &= bool(finite)
    return sums, fine
