"""Muon: matrices of the blocks get orthogonal updates (Jordan et al., 2024, "Muon: an optimizer for hidden layers").

`distributed.mesh.MATRIX_AXES` declares, beside the logical axes of parameters, which of them form a matrix. Layers that
are stacked, and queries, keys and values that lie side by side, are matrices of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from clip_jax.distributed.mesh import MATRIX_AXES, SIDE_BY_SIDE
from clip_jax.types import Params, PyTree

Names = Sequence[str | None]


class MuonState(NamedTuple):
    """Updates so far (int32 scalar), and the average of the gradients of each matrix."""

    updates: jax.Array
    momentum: optax.Updates


def is_matrix(axes: Params) -> PyTree:
    """Return a tree of booleans, True for hidden matrices.

    Args:
      axes: the logical names of each parameter's axes (`clip.AbstractModel.axes`).

    Raises:
      ValueError: `MATRIX_AXES` does not list a parameter's axes.
    """

    def listed(path: jax.tree_util.KeyPath, names: PartitionSpec) -> bool:
        if (key := _without_layers(tuple(names))) not in MATRIX_AXES:
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{where}: MATRIX_AXES does not say whether axes {key} form a hidden matrix")
        return MATRIX_AXES[key] is not None

    return jax.tree_util.tree_map_with_path(listed, axes, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _without_layers(names: Names) -> tuple[str | None, ...]:
    return tuple(name for name in names if name != "layers")


def _split(x: jax.Array, names: Names) -> jax.Array:
    """Give matrices that lie side by side along an axis an axis of their own, before it."""
    shape: list[int] = []
    for size, name in zip(x.shape, names, strict=True):
        count = SIDE_BY_SIDE.get(name or "", 1)
        shape += [size] if count == 1 else [count, size // count]
    return x.reshape(shape)


def _dimensions(names: Names) -> optax.contrib.MuonDimensionNumbers:
    """Return the axes of inputs and of outputs in an array that `_split` returned; all others count matrices."""
    axes = MATRIX_AXES[_without_layers(names)]
    assert axes is not None
    positions, position = [], 0
    for name in names:
        position += name in SIDE_BY_SIDE
        if name != "layers":
            positions.append(position)
        position += 1
    return optax.contrib.MuonDimensionNumbers(*(positions[axis] for axis in axes))


def _factor(inputs: int, outputs: int, scale: str) -> float:
    return 0.2 * max(inputs, outputs) ** 0.5 if scale == "rms" else max(1.0, outputs / inputs) ** 0.5


def scale_by_muon(axes: Params, momentum: float, scale: str) -> optax.GradientTransformation:
    """Replace the gradient of each matrix by the nearest orthogonal matrix to its Nesterov momentum, times a factor.

    Orthogonalization is by five Newton-Schulz iterations in float32, those of `optax.contrib`.

    Args:
      axes: the logical names of all parameters' axes; updates hold the hidden matrices alone, as under `optax.masked`.
      momentum: decay rate of the average of the gradients.
      scale: ``rms``: 0.2·sqrt(max(inputs, outputs)), with which the entries are about as large as AdamW's (Liu et al.,
        2025, "Muon is scalable for LLM training"); ``spectral``: sqrt(max(1, outputs / inputs)), which at a fixed ratio
        does not depend on the width (Jordan et al., 2024; Yang et al., 2023, "A spectral condition").
    """
    listed = zip(jax.tree.leaves(axes), jax.tree.leaves(is_matrix(axes)), strict=True)
    matrices = [tuple(names) for names, matrix in listed if matrix]
    dimensions = [_dimensions(names) for names in matrices]
    plain = optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimensions)

    def split(tree: PyTree) -> list[jax.Array]:
        return [_split(x, names) for x, names in zip(jax.tree.leaves(tree), matrices, strict=True)]

    def init(params: optax.Params) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: MuonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        del params
        before = plain.init([])._replace(count=state.updates, mu=split(state.momentum))
        orthogonal, after = plain.update(split(updates), before)
        leaves, structure = jax.tree.flatten(updates)
        scaled = [
            (x * _factor(x.shape[d.reduction_axis], x.shape[d.output_axis], scale)).reshape(leaf.shape)
            for x, d, leaf in zip(orthogonal, dimensions, leaves, strict=True)
        ]
        averages = [x.reshape(leaf.shape) for x, leaf in zip(after.mu, leaves, strict=True)]
        return jax.tree.unflatten(structure, scaled), MuonState(after.count, jax.tree.unflatten(structure, averages))

    return optax.GradientTransformation(init, update)
