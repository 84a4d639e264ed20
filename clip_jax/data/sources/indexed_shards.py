"""Tar shards read by their index: large ranges, each read once, in bounded memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Layout, Record, Source, evenly_spaced
from clip_jax.data.sources.shard_index import INDEXED, Manifest
from clip_jax.data.sources.tar_index import BLOCK, IMAGES
from clip_jax.data.sources.webdataset import decode_captions, decode_text
from clip_jax.errors import UserError, one_line
from clip_jax.storage import range_reads as remote

READERS = 16  # blocks read at once
OPEN_SHARDS = 1024  # indexes of shards kept in memory
SPREAD_SHARDS = 64  # shards that a sample of records is read from
CHECKS = 64  # shards looked for at once

_ROWS = {name: 2 * i for i, name in enumerate(INDEXED)}  # first row of each member in a shard's offsets


class _Block:
    """The bytes of consecutive samples of a shard: ``data`` begins at byte ``begin`` of the shard."""

    def __init__(self, begin: int, data: bytes, offsets: np.ndarray) -> None:
        self.begin, self.data, self.offsets = begin, data, offsets

    def member(self, i: int, name: str) -> bytes | None:
        """Return a member of the block's i-th sample; None if it has none."""
        block, size = self.offsets[_ROWS[name] : _ROWS[name] + 2, i].tolist()
        start = block * BLOCK - self.begin
        return self.data[start : start + size] if block else None


class IndexedShards(Source):
    """Samples of the shards of an index, in the manifest's order.

    `get_many` reads whole blocks, which `BlockSampler` draws one after the other, and keeps the blocks used last.
    Random access in another order reads far more than it returns.

    Args:
      manifest: of the index.
      window_shards, window_mb: a stream reads one block of each of ``window_shards`` shards at a time, of about
        ``window_mb`` megabytes together.
      caption_keys: fields of each sample's ``.json`` with a text or a list of texts; empty: the captions are the lines
        of its ``.txt``.
      caption_weights: the probability of each field to be drawn from, where a sample has it; empty: all alike.
    """

    def __init__(
        self,
        manifest: Manifest,
        window_shards: int,
        window_mb: int,
        caption_keys: tuple[str, ...] = (),
        caption_weights: tuple[float, ...] = (),
    ) -> None:
        self.manifest = manifest
        self.captions_of = dict(zip(caption_keys, caption_weights or [1.0] * len(caption_keys), strict=True))
        self.block_bytes = window_mb * 2**20 // window_shards
        blocks = np.maximum(1, self.block_bytes * manifest.samples // manifest.bytes)
        self._layout = Layout(manifest.samples, blocks)
        self.ends = np.cumsum(manifest.samples)
        self.window_bytes = window_mb * 2**20
        self.max_bytes = 2 * self.window_bytes
        self.stand_ins: dict[int, int] = {}  # number of a missing shard -> of the one that is read in its place
        self._open()

    def hold(self, streams: int) -> None:
        """Set the bytes held to those of the blocks that so many streams read, and as many read ahead."""
        self.max_bytes = 2 * streams * self.window_bytes

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._requests = remote.HedgedReads(2 * READERS)
        self._blocks: OrderedDict[tuple[int, int], Future[_Block]] = OrderedDict()
        self._index = lru_cache(OPEN_SHARDS)(self._read_index)
        self.requests = self.bytes_read = 0

    def __getstate__(self) -> dict[str, object]:
        """Return the state for worker processes, without blocks and threads."""
        return {
            name: self.__dict__[name]
            for name in (
                "manifest",
                "_layout",
                "ends",
                "block_bytes",
                "window_bytes",
                "max_bytes",
                "captions_of",
                "stand_ins",
            )
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ = dict(state)
        self._open()

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def layout(self) -> Layout:
        """The shards and blocks."""
        return self._layout

    def first(self, count: int) -> IndexedShards:
        """Return the source of the first ``count`` samples."""
        shards = int(np.searchsorted(self.ends, count, side="left")) + 1
        samples = self.layout.counts[:shards].copy()
        samples[-1] -= int(self.ends[shards - 1]) - count
        part = object.__new__(IndexedShards)
        layout = Layout(samples, self.layout.blocks[:shards])
        part.__setstate__(self.__getstate__() | {"_layout": layout, "ends": np.cumsum(samples), "stand_ins": {}})
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
        return self.manifest.digest + "".join(f" without {shard}" for shard in sorted(self.stand_ins))

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def files(self) -> frozenset[str]:
        return frozenset(map(str, self.manifest.table["shard"]))

    @property
    def notes(self) -> tuple[str, ...]:
        low, high = int(self.layout.blocks.min()), int(self.layout.blocks.max())
        sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return (
            f"index of {len(self.ends):,} shards, read in blocks of {sizes} samples; at most "
            f"{self.max_bytes / 2**20:,.0f} MB of them are held",
        )

    def hashes(self) -> np.ndarray:
        hint = "hold out whole shards, with an index of their own in data.val_paths"
        reason = "holds out single records, which the block order does not read apart"
        raise UserError(field="data.val_fraction", reason=reason, hint=hint)

    def _read_index(self, shard: int) -> np.ndarray:
        """Return the offsets of a shard's members; check that the shard still has the size it was indexed with."""
        index, name = self.manifest.read(shard), self.manifest.shard(shard)
        if not (reason := self._change(shard)) and len(index) != self.manifest.samples[shard]:
            reason = f"its index has {len(index):,} samples, and the manifest {int(self.manifest.samples[shard]):,}"
        if reason:
            hint = "run clip-jax data index again, or let a run do without some: data.max_missing_shards"
            raise UserError(field=name, reason=reason, hint=hint)
        return index.offsets

    def _change(self, shard: int) -> str:
        """Return how a shard differs from the one that was indexed; empty if it is there with the same size."""
        was = int(self.manifest.bytes[shard])
        try:
            size = remote.stat(self.manifest.shard(shard)).size
        except remote.MissingFile as error:
            return str(error.reason)
        return "" if size == was else f"has {size:,} bytes, and {was:,} when it was indexed"

    def missing_shards(self) -> dict[str, str]:
        shards = range(len(self.ends))
        with ThreadPoolExecutor(CHECKS, thread_name_prefix="checks") as pool:
            changes = pool.map(self._change, shards)
            return {self.manifest.shard(shard): change for shard, change in zip(shards, changes, strict=True) if change}

    def replace_shards(self, shards: Collection[str]) -> None:
        """Read the next shard of the manifest that is none of these in place of each, from now on.

        Sample n of a missing shard is then sample n of the other, counted from 0 again beyond its end: the record at
        each index is the same in every process.

        Raises:
          UserError: there is no other shard.
        """
        gone = np.isin(self.manifest.table["shard"][: len(self.ends)].to_numpy(str), list(shards))
        present = np.flatnonzero(~gone)
        if not len(present):
            raise UserError(field=self.manifest.folder, reason="none of its shards can be read")
        missing = np.flatnonzero(gone)
        following = present[np.searchsorted(present, missing) % len(present)]
        self.stand_ins = dict(zip(missing.tolist(), following.tolist(), strict=True))
        self._open()

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the shard that a record is read from, and its number in the shard."""
        shard = int(np.searchsorted(self.ends, row, side="right"))
        sample = row - int(self.ends[shard] - self.layout.counts[shard])
        if (other := self.stand_ins.get(shard)) is not None:
            return other, sample % int(self.layout.counts[other])
        return shard, sample

    def name(self, i: int) -> str:
        shard, sample = self._locate(i)
        key = self.manifest.read(shard).keys[sample].decode("utf-8", "replace")
        return f"{self.manifest.shard(shard)}:{one_line(key)}"

    def _read_block(self, shard: int, number: int) -> _Block:
        low, size = number * int(self.layout.blocks[shard]), int(self.layout.blocks[shard])
        offsets = self._index(shard)[:, low : low + size]
        begins, sizes = offsets[0::2].astype(np.int64) * BLOCK, offsets[1::2]
        present = begins > 0
        if not present.any():
            return _Block(0, b"", offsets)
        begin, end = int(begins[present].min()), int((begins + sizes)[present].max())
        data = self._requests.read(remote.Range(self.manifest.shard(shard), begin, end))
        with self._lock:
            self.requests += 1
            self.bytes_read += len(data)
        return _Block(begin, data, offsets)

    def _block(self, shard: int, number: int) -> Future[_Block]:
        """Return the block, being read or read; forget the blocks used least recently beyond `max_bytes`."""
        key = (shard, number)
        with self._lock:
            if (known := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return known
            if self._pool is None:
                self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="blocks")
            future = self._blocks[key] = self._pool.submit(self._read_block, shard, number)
            self._forget()
        return future

    def _forget(self) -> None:
        """Drop the blocks used least recently, so that the others and those being read fit `max_bytes`."""
        sizes = {k: len(f.result().data) for k, f in self._blocks.items() if f.done() and f.exception() is None}
        held = sum(sizes.values()) + (len(self._blocks) - len(sizes)) * self.block_bytes
        for key, size in sizes.items():
            if held <= self.max_bytes:
                break
            held -= size
            del self._blocks[key]

    def read_ahead(self, rows: list[int]) -> None:
        """Begin to read the blocks that hold these records, in threads."""
        for row in rows:
            shard, sample = self._locate(row)
            self._block(shard, sample // int(self.layout.blocks[shard]))

    def get_many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        places = [(shard, *divmod(sample, int(self.layout.blocks[shard]))) for shard, sample in map(self._locate, rows)]
        futures = {key: self._block(*key) for key in dict.fromkeys((shard, number) for shard, number, _ in places)}
        blocks = {key: self._result(key, future) for key, future in futures.items()}
        return [
            self._record(row, blocks[shard, number], sample)
            for row, (shard, number, sample) in zip(rows, places, strict=True)
        ]

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        ranges = []
        for shard, sample in map(self._locate, rows):
            row = _ROWS[self._text_member]
            block, size = self._index(shard)[row : row + 2, sample].tolist()
            begin = block * BLOCK
            ranges.append(remote.Range(self.manifest.shard(shard), begin, begin + size) if block else None)
        texts = iter(remote.read([r for r in ranges if r is not None]))
        both = [self._captions(row, next(texts) if r else None) for row, r in zip(rows, ranges, strict=True)]
        return [c if isinstance(c, BrokenRecord) else c[0] for c in both]

    @property
    def _text_member(self) -> str:
        return "json" if self.captions_of else "txt"

    def _result(self, key: tuple[int, int], future: Future[_Block]) -> _Block:
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._blocks.pop(key, None)  # so that the next attempt reads again
            raise

    def _record(self, row: int, block: _Block, sample: int) -> Record | BrokenRecord:
        image = block.member(sample, "image")
        if image is None:
            return BrokenRecord(field=self.name(row), reason=f"has no image ({', '.join(IMAGES)})")
        captions = self._captions(row, block.member(sample, self._text_member))
        return captions if isinstance(captions, BrokenRecord) else Record(image, *captions)

    def _captions(self, row: int, text: bytes | None) -> tuple[tuple[str, ...], tuple[float, ...]] | BrokenRecord:
        """Return the captions in a sample's text member, and their weights."""
        try:
            if not self.captions_of:
                return decode_captions(text, lambda: self.name(row)), ()
            return json_captions(decode_text(text, "json", lambda: self.name(row)), self.captions_of)
        except BrokenRecord as error:
            return error
        except ValueError as error:
            return BrokenRecord(field=self.name(row), reason=f"its .json {error}")


def json_captions(text: str, weights: dict[str, float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the captions in some fields of a JSON object, and the probability of each.

    Args:
      text: JSON.
      weights: by field; a field that is missing, null or empty takes no part, and the texts of a list share its weight.

    Raises:
      ValueError: the text is no JSON object, or has a caption in none of the fields.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    captions: list[str] = []
    shares: list[float] = []
    for key, weight in weights.items():
        value = values.get(key)
        several = value if isinstance(value, list) else [value]
        texts = [t.strip() for t in several if isinstance(t, str) and t.strip()]
        captions += texts
        shares += [weight / max(len(texts), 1)] * len(texts)
    if not captions:
        raise ValueError(f"has no caption in {', '.join(weights)}")
    return tuple(captions), tuple(share / sum(shares) for share in shares)
