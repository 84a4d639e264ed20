"""The batches of a run on their devices, ahead of the steps: for accelerators, which the host must keep supplied."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.distributed.mesh import batch_sharding
from clip_jax.train.anomalies import BatchStream
from clip_jax.train.grad_cache import Batch

AHEAD = 2  # batches on the devices besides the one of the running step


def feeds_ahead(mesh: Mesh) -> bool:
    """Return whether to use `DeviceBatches`: not on CPUs, whose cores would make batches and steps by turns."""
    return bool(mesh.devices.flat[0].platform != "cpu")


class DeviceBatches:
    """A thread that copies pieces of batches into one buffer per device and transfers each buffer when it is full.

    The plain form is `step.put_batch` of `BatchStream.batch`: the same arrays, made in the training thread. The buffers
    are reused from batch to batch.

    Args:
      stream: the batches by step.
      mesh: the devices.
      batch_size: rows of the global batch.
      steps: length of the run; nothing is drawn beyond.
    """

    def __init__(self, stream: BatchStream, mesh: Mesh, batch_size: int, steps: int) -> None:
        self._stream, self._batch_size, self._steps = stream, batch_size, steps
        self._sharding = batch_sharding(mesh)
        devices_of: dict[int, list[jax.Device]] = {}  # first row -> devices that hold the rows from there on
        for device, index in self._sharding.addressable_devices_indices_map((batch_size,)).items():
            devices_of.setdefault((index or (slice(0),))[0].start or 0, []).append(device)
        self._devices = [devices_of[row] for row in sorted(devices_of)]
        self._rows = self._sharding.shard_shape((batch_size,))[0]
        self._aliases = not feeds_ahead(mesh)  # an array on a CPU may be the host's memory itself
        self._buffers: dict[str, np.ndarray] = {}  # [shards of this process, rows, …]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()

    def batch(self, step: int) -> Batch:
        """Return the batch for the update after ``step``; block until it is there."""
        if self._ahead and self._ahead[0][0] != step:
            self._forget()
        ahead = self._ahead[-1][0] + 1 if self._ahead else step
        for later in range(ahead, min(step + AHEAD + 1, self._steps)):
            self._ahead.append((later, self._thread.submit(self._make, later)))
        return self._ahead.popleft()[1].result()

    def close(self) -> None:
        """End the thread, after the batch that it is making."""
        self._forget()
        self._thread.shutdown()

    def _forget(self) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _make(self, step: int) -> Batch:
        arrays: dict[str, list[jax.Array]] = {"images": [], "tokens": []}
        filled = 0
        for piece in self._stream.pieces(step):
            taken, count = 0, len(piece["images"])
            while taken < count:
                shard, row = divmod(filled, self._rows)
                part = min(count - taken, self._rows - row)
                for name, made in arrays.items():
                    buffer = self._buffer(name, piece[name])[shard]
                    buffer[row : row + part] = piece[name][taken : taken + part]
                    if row + part == self._rows:
                        full = buffer.copy() if self._aliases else buffer
                        made += [jax.device_put(full, device) for device in self._devices[shard]]
                taken, filled = taken + part, filled + part
        batch = {
            name: jax.make_array_from_single_device_arrays((self._batch_size, *made[0].shape[1:]), self._sharding, made)
            for name, made in arrays.items()
        }
        return jax.block_until_ready(batch)  # from here on the buffers may be written again

    def _buffer(self, name: str, piece: np.ndarray) -> np.ndarray:
        if name not in self._buffers:
            self._buffers[name] = np.empty((len(self._devices), self._rows, *piece.shape[1:]), piece.dtype)
        return self._buffers[name]
