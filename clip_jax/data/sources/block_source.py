"""Sources of shards that are read in blocks: large ranges, each read once, in bounded memory."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Layout, Record, Source, evenly_spaced
from clip_jax.errors import UserError
from clip_jax.storage import range_reads as remote

READERS = 16  # blocks read at once
SPREAD_SHARDS = 64  # shards that a sample of records is read from
CHECKS = 64  # files looked for at once
# Of a stream: the window that it reads, the next, and the one after, which begins to be read while batches of the first
# are still in the making; and one for blocks that are larger than said. With fewer, blocks are read again and again.
WINDOWS_HELD = 4


class ReadBlock(Protocol):
    """Consecutive samples of a shard, in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


B = TypeVar("B", bound=ReadBlock)
D = TypeVar("D", bytes, memoryview)


class ReusedMemory:
    """Memory for parts of local files, taken again when nothing refers to the part any more.

    Touching new memory takes longer than reading a file that the system has in its cache. A part takes at most a
    quarter more than its bytes, `bytes_of`.
    """

    def __init__(self) -> None:
        self.free: list[bytearray] = []  # to which no view refers
        self._lock = threading.Lock()

    def _take(self, size: int) -> bytearray:
        """Return the smallest free memory that fits, or new memory in place of the smallest one that is free."""
        with self._lock:  # a finalizer may append meanwhile, which moves nothing
            sizes = [len(memory) for memory in self.free]
            fitting = [i for i, n in enumerate(sizes) if size <= n <= size * 1.25]
            at = min(fitting or range(len(sizes)), key=sizes.__getitem__, default=None)
            taken = None if at is None else self.free.pop(at)
        return taken if fitting and taken is not None else bytearray(size + size // 8)  # the next may be larger

    def read(self, wanted: remote.Range) -> memoryview:
        """Return the bytes of a range; raise UserError as `range_reads.read` does."""
        size = wanted.end - wanted.start
        memory = self._take(size)
        array = np.frombuffer(memory, np.uint8)  # every view of the part refers to it
        weakref.finalize(array, self.free.append, memory).atexit = False
        part = array.data[:size]
        remote.read_into(wanted, part)
        return part

    @staticmethod
    def bytes_of(part: memoryview) -> int:
        """Return the bytes of the memory in which a part lies."""
        return cast(np.ndarray, part.obj).nbytes


class BlockSource(Source, Generic[B]):
    """Samples of shards, in the shards' order. A shard is a file or a part of one.

    `get_many` reads whole blocks, which `BlockSampler` draws one after the other, and keeps the blocks used last.
    Random access in another order reads far more than it returns. A subclass defines `file_names`, `file_stat`,
    `read_block`, `_record`, and what `Source` asks for.

    Args:
      layout: the shards and their blocks.
      file_of: number of each shard's file, int64 [shards].
      block_bytes: of a block, about.
      window_bytes: that a stream reads at a time.
    """

    # for a changed file
    hint = (
        "run clip-jax data index again, and data subset where this is one (copies made by cp -p or rsync -a need it "
        "not), or set data.max_missing_shards"
    )

    def __init__(self, layout: Layout, file_of: np.ndarray, block_bytes: int, window_bytes: int) -> None:
        self.shards, self.file_of = layout, file_of
        self.block_bytes, self.window_bytes, self.max_bytes = block_bytes, window_bytes, WINDOWS_HELD * window_bytes
        self.ends = np.cumsum(layout.counts)
        self.stand_ins: dict[int, int] = {}  # shard of a missing file -> the one that is read in its place
        self._open()

    def _open(self) -> None:
        """Make what does not go to worker processes: attributes whose names begin with an underscore."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._requests = remote.HedgedReads()
        self._blocks: OrderedDict[tuple[int, int], Future[B]] = OrderedDict()
        self._sizes: dict[tuple[int, int], int] = {}  # of the blocks that have been read
        self._held = 0  # their sum
        self.requests = self.bytes_read = 0

    def __getstate__(self) -> dict[str, object]:
        """Return the state for worker processes."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__ = dict(state)
        self._open()

    @property
    def file_names(self) -> Sequence[str]:
        """Paths or URLs of the files."""
        raise NotImplementedError

    def file_name(self, file: int) -> str:
        """Return the path or URL of one of the files."""
        return self.file_names[file]

    def file_stat(self, file: int) -> remote.Stat:
        """Return the size and version that one of the files had when it was indexed."""
        raise NotImplementedError

    def read_block(self, shard: int, number: int) -> B:
        """Read a block of a shard."""
        raise NotImplementedError

    def _record(self, row: int, block: B, sample: int) -> Record | BrokenRecord:
        """Return record ``row``, which is a block's ``sample``-th."""
        raise NotImplementedError

    def hold(self, streams: int) -> None:
        """Set the bytes held to `WINDOWS_HELD` windows for each of so many streams."""
        self.max_bytes = WINDOWS_HELD * streams * self.window_bytes

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def layout(self) -> Layout:
        """The shards and blocks."""
        return self.shards

    def first(self, count: int) -> BlockSource[B]:
        """Return the source of the first ``count`` samples."""
        shards = int(np.searchsorted(self.ends, count, side="left")) + 1
        samples = self.layout.counts[:shards].copy()
        samples[-1] -= int(self.ends[shards - 1]) - count
        part = object.__new__(type(self))
        changes = {"shards": Layout(samples, self.layout.blocks[:shards]), "ends": np.cumsum(samples), "stand_ins": {}}
        part.__setstate__(self.__getstate__() | changes)
        return part

    def spread(self, count: int) -> np.ndarray:
        """Return the indices of at most ``count`` records of at most `SPREAD_SHARDS` shards; 0 takes all records."""
        if not count or count >= len(self):
            return np.arange(len(self))
        shards = evenly_spaced(len(self.ends), min(count, SPREAD_SHARDS))
        each = [evenly_spaced(int(self.layout.counts[s]), -(-count // len(shards))) for s in shards.tolist()]
        begins = self.ends - self.layout.counts
        return np.concatenate([begins[s] + rows for s, rows in zip(shards.tolist(), each, strict=True)])[:count]

    @property
    def identity(self) -> str:
        return f"{self.digest}" + "".join(f" without {shard}" for shard in sorted(self.stand_ins))

    @property
    def files(self) -> frozenset[str]:
        return frozenset(self.file_names)

    @property
    def notes(self) -> tuple[str, ...]:
        low, high = int(self.layout.blocks.min()), int(self.layout.blocks.max())
        sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return (
            f"index of {len(self.ends):,} shards, read in blocks of {sizes} samples; at most "
            f"{self.max_bytes / 2**20:,.0f} MB of them are held",
        )

    def hashes(self) -> np.ndarray:
        hint = "hold out whole shards: give them in data.val_paths"
        reason = "holds out single records, which the block order does not read apart"
        raise UserError(field="data.val_fraction", reason=reason, hint=hint)

    def _change(self, file: int) -> str:
        """Return how a file differs from the one that was indexed; empty if it is there and the same."""
        try:
            change = remote.change(self.file_name(file), self.file_stat(file))
        except remote.MissingFile as error:
            return str(error.reason)
        return f"{change} when it was indexed" if change else ""

    def _check_file(self, file: int) -> None:
        """Raise UserError if a file is missing or changed."""
        if reason := self._change(file):
            raise UserError(field=self.file_name(file), reason=reason, hint=self.hint)

    def missing_shards(self) -> dict[str, str]:
        files = np.unique(self.file_of[: len(self.ends)]).tolist()
        with ThreadPoolExecutor(CHECKS, thread_name_prefix="checks") as pool:
            changes = list(pool.map(self._change, files))
        return {self.file_name(file): change for file, change in zip(files, changes, strict=True) if change}

    def replace_shards(self, shards: Collection[str]) -> None:
        """Read the next shard that is in none of these files in place of each that is, from now on.

        Of several missing ones in a row the second takes the second next, and so on. Sample n of a missing shard is
        then sample n of the other, counted from 0 again beyond its end: the record at each index is the same in every
        process.

        Raises:
          UserError: there is no other shard.
        """
        gone = np.isin(np.array(self.file_names), list(shards))[self.file_of[: len(self.ends)]]
        present, missing = np.flatnonzero(~gone), np.flatnonzero(gone)
        if not len(present):
            raise UserError(field=min(shards), reason="none of the shards can be read")
        first = np.searchsorted(present, missing)
        in_row = np.arange(len(missing)) - np.searchsorted(first, first)
        following = present[(first + in_row) % len(present)]
        self.stand_ins = dict(zip(missing.tolist(), following.tolist(), strict=True))
        self._open()

    def _locate(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards that some records are read from, and their numbers in the shards: int64 [N] each."""
        index = np.array(rows, np.int64)
        shards = np.searchsorted(self.ends, index, side="right")
        samples = index - (self.ends - self.layout.counts)[shards]
        if self.stand_ins:
            shards = np.array([self.stand_ins.get(shard, shard) for shard in shards.tolist()], np.int64)
            samples %= self.layout.counts[shards]
        return shards, samples

    def _request(self, wanted: remote.Range) -> bytes:
        """Return the bytes of a range, and count them."""
        return self._counted(self._requests.read(wanted))

    def _counted(self, data: D) -> D:
        with self._lock:
            self.requests += 1
            self.bytes_read += len(data)
        return data

    def _block(self, shard: int, number: int) -> Future[B]:
        """Return the block, being read or read; forget the blocks used least recently beyond `max_bytes`."""
        key = (shard, number)
        with self._lock:
            if (known := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return known
            if self._pool is None:
                self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="blocks")
            future = self._blocks[key] = self._pool.submit(self._read_and_weigh, key)
            self._forget()
        return future

    def _read_and_weigh(self, key: tuple[int, int]) -> B:
        block = self.read_block(*key)
        with self._lock:
            if key in self._blocks:  # not so if the source was opened again
                self._sizes[key] = block.nbytes
                self._held += block.nbytes
        return block

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks in memory, without those being read."""
        return self._held

    def _forget(self) -> None:
        """Drop the blocks used least recently, so that the others and those being read fit `max_bytes`."""
        held = self._held + (len(self._blocks) - len(self._sizes)) * self.block_bytes
        oldest = iter(list(self._blocks) if held > self.max_bytes else [])
        while held > self.max_bytes and (key := next(oldest, None)) is not None:
            if (size := self._sizes.pop(key, None)) is not None:
                del self._blocks[key]
                held, self._held = held - size, self._held - size

    def read_ahead(self, rows: list[int]) -> None:
        """Begin to read the blocks that hold these records, in threads."""
        for key in dict.fromkeys(key for key, _ in self._located(rows)):
            self._block(*key)

    def _located(self, rows: list[int]) -> list[tuple[tuple[int, int], int]]:
        """Return for each record its block, and its number in the block."""
        shards, samples = self._locate(rows)
        numbers, in_block = np.divmod(samples, self.layout.blocks[shards])
        return list(zip(zip(shards.tolist(), numbers.tolist(), strict=True), in_block.tolist(), strict=True))

    def get_many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        located = self._located(rows)
        keys = list(dict.fromkeys(key for key, _ in located))
        most = max(1, self.max_bytes // self.block_bytes)
        if len(keys) <= most:
            blocks, record = self._read(keys), self._record
            return [record(row, blocks[key], sample) for row, (key, sample) in zip(rows, located, strict=True)]
        # far apart, as held-out pairs are: records that keep no block alive, of a few blocks at a time
        records: dict[int, Record | BrokenRecord] = {}
        for first in range(0, len(keys), most):
            blocks = self._read(keys[first : first + most])
            for i, (row, (key, sample)) in enumerate(zip(rows, located, strict=True)):
                if key in blocks:
                    records[i] = _alone(self._record(row, blocks[key], sample))
        return [records[i] for i in range(len(rows))]

    def _read(self, keys: list[tuple[int, int]]) -> dict[tuple[int, int], B]:
        futures = {key: self._block(*key) for key in keys}
        return {key: self._result(key, future) for key, future in futures.items()}

    def _result(self, key: tuple[int, int], future: Future[B]) -> B:
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._blocks.pop(key, None)  # so that the next attempt reads again
            raise


def _alone(record: Record | BrokenRecord) -> Record | BrokenRecord:
    """Return a record whose image is no view of a block."""
    if isinstance(record, Record) and isinstance(record.image, memoryview):
        return replace(record, image=bytes(record.image))
    return record
