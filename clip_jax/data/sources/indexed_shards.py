"""Tar shards read by their index: large ranges, each read once, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Layout, Record, weighted_captions
from clip_jax.data.sources.block_source import BlockSource
from clip_jax.data.sources.shard_index import INDEXED, Manifest
from clip_jax.data.sources.tar_index import BLOCK, IMAGES
from clip_jax.data.sources.webdataset import decode_captions, decode_text
from clip_jax.errors import UserError, one_line
from clip_jax.storage import range_reads as remote

OPEN_SHARDS = 1024  # indexes of shards kept in memory

_ROWS = {name: 2 * i for i, name in enumerate(INDEXED)}  # first row of each member in a shard's offsets


class _Block:
    """The bytes of consecutive samples of a shard: ``data`` begins at byte ``begin`` of the shard."""

    def __init__(self, begin: int, data: bytes, offsets: np.ndarray) -> None:
        self.begin, self.data, self.offsets = begin, data, offsets

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def member(self, i: int, name: str) -> bytes | None:
        """Return a member of the block's i-th sample; None if it has none."""
        block, size = self.offsets[_ROWS[name] : _ROWS[name] + 2, i].tolist()
        start = block * BLOCK - self.begin
        return self.data[start : start + size] if block else None


class IndexedShards(BlockSource[_Block]):
    """Samples of the shards of an index, in the manifest's order.

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
        block_bytes = window_mb * 2**20 // window_shards
        layout = Layout(manifest.samples, np.maximum(1, block_bytes * manifest.samples // manifest.bytes))
        super().__init__(layout, np.arange(len(manifest)), manifest.bytes, block_bytes, window_mb * 2**20)

    def _open(self) -> None:
        super()._open()
        self._index = lru_cache(OPEN_SHARDS)(self._read_index)

    @property
    def file_names(self) -> Sequence[str]:
        return self.manifest.table["shard"].tolist()

    def file_name(self, file: int) -> str:
        return self.manifest.shard(file)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def _read_index(self, shard: int) -> np.ndarray:
        """Return the offsets of a shard's members; check that the shard still has the size it was indexed with."""
        self._check_file(shard)
        index = self.manifest.read(shard)
        if len(index) != self.manifest.samples[shard]:
            reason = f"its index has {len(index):,} samples, and the manifest {int(self.manifest.samples[shard]):,}"
            raise UserError(field=self.manifest.shard(shard), reason=reason, hint="run clip-jax data index again")
        return index.offsets

    def name(self, i: int) -> str:
        shard, sample = self._locate(i)
        key = self.manifest.read(shard).keys[sample].decode("utf-8", "replace")
        return f"{self.manifest.shard(shard)}:{one_line(key)}"

    def read_block(self, shard: int, number: int) -> _Block:
        low, size = number * int(self.layout.blocks[shard]), int(self.layout.blocks[shard])
        offsets = self._index(shard)[:, low : low + size]
        begins, sizes = offsets[0::2].astype(np.int64) * BLOCK, offsets[1::2]
        present = begins > 0
        if not present.any():
            return _Block(0, b"", offsets)
        begin, end = int(begins[present].min()), int((begins + sizes)[present].max())
        return _Block(begin, self._request(remote.Range(self.manifest.shard(shard), begin, end)), offsets)

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
      weights: see `weighted_captions`.

    Raises:
      ValueError: the text is no JSON object, or has a caption in none of the fields.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    return weighted_captions(values, weights)
