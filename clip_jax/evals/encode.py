"""Embeddings of any number of images or texts, in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from clip_jax.data.images.train_transforms import MEAN, STD, normalize
from clip_jax.distributed.mesh import InFlight, batch_sharding, replicated
from clip_jax.finite import finite_rows
from clip_jax.models.clip import AbstractModel, normalize_features
from clip_jax.types import Params, PyTree

Take = Callable[[np.ndarray], tuple[np.ndarray, ...]]  # indices of rows -> arrays of those rows
Compiled = Callable[..., PyTree]  # (parameters, arrays) -> arrays


def in_batches(
    function: Compiled, params: Params, take: Take, count: int, batch_size: int, sharding: NamedSharding
) -> np.ndarray | tuple[np.ndarray, ...]:  # fmt: skip
    """Evaluate ``function(params, *take(rows))`` over the rows 0 to ``count`` - 1 in batches.

    Args:
      function: compiled; returns arrays with a leading batch axis.
      params: parameters on the device.
      take: row indices -> host arrays of those rows.
      count: number of rows.
      batch_size: rows per batch. The last batch is padded with its last row, so that only one shape is compiled.
      sharding: of the arrays.

    Returns:
      The concatenated results as host arrays.
    """
    in_flight, done = InFlight(), []
    for start in range(0, count, batch_size):
        arrays = take(np.minimum(np.arange(start, start + batch_size), count - 1))
        parts = [jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in arrays]
        done += jax.device_get(in_flight.add(function(params, *parts)))
    done += jax.device_get(in_flight.rest())
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *done)


class Encoder:
    """Compiled image and text towers. Inputs are host arrays, equal on every process; outputs are float32 [N, E].

    ``exact`` multiplies in full float32 on accelerators too. With ``small_batches``, inputs that are fewer than a batch
    are padded to a power of two only, and each of these shapes is compiled. Every method raises NotFinite naming the
    row when a result is not finite; its argument ``of`` is a prefix of that name, such as the set.
    """

    def __init__(
        self, built: AbstractModel, mesh: Mesh, batch_size: int, *, mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD, exact: bool = False, small_batches: bool = False,
    ) -> None:  # fmt: skip
        # by default accelerators round the inputs of float32 matmuls, which would shift published numbers
        self._precision = "highest" if exact else None
        self._dtype = built.compute_dtype
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._small_batches, self._shards = small_batches, mesh.size
        self._sharding = batch_sharding(mesh)

        def image(params: Params, images: jax.Array) -> jax.Array:
            return normalize_features(nnx.merge(built.graphdef, params).encode_image(normalize(images, mean, std)))

        def both(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            model, pixels = nnx.merge(built.graphdef, params), normalize(images, mean, std)
            wide = model.image.penultimate(pixels)
            features = wide if model.config.image.stages else model.image.project(wide)
            return normalize_features(features), wide.astype(jnp.float32)

        def text(params: Params, tokens: jax.Array) -> jax.Array:
            return normalize_features(nnx.merge(built.graphdef, params).encode_text(tokens))

        def states(params: Params, tokens: jax.Array, layer: int, final_norm: bool) -> jax.Array:
            return nnx.merge(built.graphdef, params).text.states(tokens, layer, final_norm).astype(jnp.float32)

        shardings = (built.shardings, self._sharding)
        self._image = jax.jit(image, in_shardings=shardings, out_shardings=replicated(mesh))
        self._both = jax.jit(both, in_shardings=shardings, out_shardings=replicated(mesh))
        self._text = jax.jit(text, in_shardings=shardings, out_shardings=replicated(mesh))
        self._states = jax.jit(states, static_argnums=(2, 3), out_shardings=replicated(mesh))

    def _run(self, function: Compiled, params: Params, rows: np.ndarray, kind: str, of: str, *whats: str) -> Any:
        size = self.batch_size
        if self._small_batches:
            each = max(1, -(-len(rows) // self._shards))
            size = min(size, self._shards << (each - 1).bit_length())
        with jax.default_matmul_precision(self._precision):
            outputs = in_batches(function, params, lambda i: (rows[i],), len(rows), size, self._sharding)
        for what, values in zip(whats, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
            finite_rows(values, what, lambda row: f"{of}{kind} {row}", dtype=self._dtype)
        return outputs

    def images(self, params: Params, images: np.ndarray, of: str = "") -> np.ndarray:
        """Return image embeddings of uint8 [N, H, W, 3]."""
        return self._run(self._image, params, images, "picture", of, "embedding")

    def images_and_features(self, params: Params, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return image embeddings and, for probes, the activations before the projection, of uint8 [N, H, W, 3]."""
        return self._run(self._both, params, images, "picture", "", "embedding", "features")

    def texts(self, params: Params, tokens: np.ndarray, of: str = "") -> np.ndarray:
        """Return text embeddings of int32 [N, T]."""
        return self._run(self._text, params, tokens, "text", of, "embedding")

    def text_states(self, params: Params, tokens: np.ndarray, layer: int, final_norm: bool) -> np.ndarray:
        """Return the text tower's states after a block (`TextTransformer.states`), float32 [N, T, D]."""

        def states(params: Params, rows: jax.Array) -> PyTree:
            return self._states(params, rows, layer, final_norm)

        return self._run(states, params, tokens, "text", "", "states")
