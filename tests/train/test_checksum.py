"""Checksums that do not depend on the sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.train.checksum import checksum, checksums, checksums_and_finite


def reference(array):
    """Compute the same sum in numpy."""
    kind = {1: np.uint8, 2: np.uint16}.get(array.dtype.itemsize, np.uint32)
    bits = np.ascontiguousarray(array).view(kind).astype(np.uint32)
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
        return int(np.sum(bits ^ (bits >> 16), dtype=np.uint32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "bool"])
def test_checksum_equals_numpy(dtype):
    array = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)) * 3, dtype)
    assert int(checksum(array)) == reference(np.asarray(array))


def put(mesh, value, spec):
    return jax.device_put(value, NamedSharding(mesh, spec))


def test_checksums_are_independent_of_sharding_and_change_with_values():
    value = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    whole = make_mesh(MeshConfig(data=2, fsdp=4))
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    trees = [
        {"a": {"w": put(whole, value, PartitionSpec("fsdp", "data"))}, "b": [put(whole, np.int32(3), PartitionSpec())]},
        {"a": {"w": put(whole, value, PartitionSpec())}, "b": [put(whole, np.int32(3), PartitionSpec())]},
        {"a": {"w": put(one, value, PartitionSpec())}, "b": [put(one, np.int32(3), PartitionSpec())]},
    ]
    first = checksums(trees[0])
    assert {k: len(v) for k, v in first.items()} == {"a": 1, "b": 1}
    assert all(checksums(tree) == first for tree in trees)
    assert checksums_and_finite(trees[0]) == (first, True)
    other = value.copy()
    other.view(np.uint32)[2, 3] ^= 1  # the smallest change there is
    assert checksums({"a": {"w": put(one, other, PartitionSpec())}})["a"] != first["a"]
    flipped = value.copy()
    flipped[0, :2] *= -1  # the top bit of two numbers, which a plain sum of the bits would miss
    assert checksums({"a": {"w": put(one, flipped, PartitionSpec())}})["a"] != first["a"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_checksums_and_finite_detects_non_finite_values(bad):
    mesh = make_mesh(MeshConfig())
    good = {
        "a": {"n": put(mesh, np.int32(1), PartitionSpec()), "w": put(mesh, np.ones(8, np.float32), PartitionSpec())}
    }
    assert checksums_and_finite(good)[1]
    assert not checksums_and_finite(
        {"a": good["a"] | {"w": put(mesh, np.array([1, bad], np.float32), PartitionSpec())}}
    )[1]
