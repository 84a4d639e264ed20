"""Ordered prefetching by threads of this process or of worker processes (Grain)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

PREFETCH_PER_THREAD = 2  # elements prefetched per thread
WORKER_BUFFER = 2  # finished elements buffered per worker


class Prefetcher(Generic[T]):
    """An iterator over ``make(n)`` for n in ``numbers``, in order, the same for any number of threads and workers.

    With ``workers`` processes, each computes every ``workers``-th element with ``threads`` threads; ``make`` is pickled
    and sent to them. An exception of ``make`` is raised in place of its element.
    """

    def __init__(self, make: Callable[[int], T], numbers: range, threads: int, workers: int) -> None:
        import grain
        from absl import flags

        # maximum number of elements in existence, finished or in progress
        self.held = max(workers, 1) * (PREFETCH_PER_THREAD + 1) * threads + workers * 2 * WORKER_BUFFER
        data = grain.MapDataset.range(numbers.start, numbers.stop).map(make)
        data = data.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCH_PER_THREAD * threads)
        )
        if workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which only an absl program parses
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=WORKER_BUFFER)
            data = data.mp_prefetch(options, worker_init_fn=ParentWatchdog(os.getpid()))
        self._iterator = iter(data)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._iterator)

    def close(self) -> None:
        """Stop threads and processes."""
        self._iterator.close()


class ParentWatchdog:
    """Worker initializer: ignores SIGINT and SIGTERM, which the parent handles; exits when the parent dies."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, worker: int, workers: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(1.0)
        os._exit(1)
