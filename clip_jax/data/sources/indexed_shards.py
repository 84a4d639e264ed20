"""Tar shards read by their index: large ranges, each read once, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Layout, Record, weighted_captions
from clip_jax.data.sources.block_source import BlockSource, ReusedMemory
from clip_jax.data.sources.shard_index import INDEXED, Manifest
from clip_jax.data.sources.tar_index import BLOCK, IMAGES
from clip_jax.data.sources.webdataset import decode_captions, decode_text
from clip_jax.errors import UserError, one_line
from clip_jax.storage import range_reads as remote
from clip_jax.storage.paths import is_url

OPEN_SHARDS = 1024  # indexes of shards kept in memory

NAME = 95  # bytes of a key that are surely in the header before its member
SIZE, PREFIX = np.arange(124, 136), 345  # bytes of a header: the member's size, and the first of its name's other part


class _Index(NamedTuple):
    """Part of a shard's index that is kept.

    ``offsets``: of image and text, uint32 [4, N]. ``letters``: see `_letters`.
    """

    offsets: np.ndarray
    letters: np.ndarray


class _Block:
    """The bytes of consecutive samples of a shard, and where their images and texts lie in them.

    Args:
      data: the bytes.
      begins, ends: of each sample's image and text in ``data``, int64 [2, n]; both 0 where it has none.
      nbytes: of memory that ``data`` takes.
    """

    def __init__(self, data: bytes | memoryview, begins: np.ndarray, ends: np.ndarray, nbytes: int) -> None:
        self.data, self.nbytes = memoryview(data), nbytes
        self.image, self.text = (list(map(slice, *both)) for both in zip(begins.tolist(), ends.tolist(), strict=True))


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
        super().__init__(layout, np.arange(len(manifest)), block_bytes, window_mb * 2**20)

    def _open(self) -> None:
        super()._open()
        self._index = lru_cache(OPEN_SHARDS)(self._read_index)
        self._memory = ReusedMemory()

    @property
    def file_names(self) -> Sequence[str]:
        return self.manifest.table["shard"].tolist()

    def file_name(self, file: int) -> str:
        return self.manifest.shard(file)

    def file_stat(self, file: int) -> remote.Stat:
        return remote.Stat(int(self.manifest.bytes[file]), str(self.manifest.table["version"].iat[file]))

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def _read_index(self, shard: int) -> _Index:
        """Return where a shard's images and texts lie; check that the shard is still the one that was indexed."""
        self._check_file(shard)
        index = self.manifest.read(shard)
        if len(index) != self.manifest.samples[shard]:
            reason = f"its index has {len(index):,} samples, and the manifest {int(self.manifest.samples[shard]):,}"
            raise UserError(field=self.manifest.shard(shard), reason=reason, hint="run clip-jax data index again")
        rows = [2 * INDEXED.index(name) + k for name in ("image", self._text_member) for k in (0, 1)]
        return _Index(index.offsets[rows], _letters(index.keys))

    def name(self, i: int) -> str:
        (shard,), (sample,) = self._locate([i])
        key = self.manifest.read(shard).keys[sample].decode("utf-8", "replace")
        return f"{self.manifest.shard(shard)}:{one_line(key)}"

    def read_block(self, shard: int, number: int) -> _Block:
        size = int(self.layout.blocks[shard])
        part = slice(number * size, (number + 1) * size)
        index = self._index(shard)
        begins, ends = _spans(index.offsets[:, part])
        present = begins > 0
        if not present.any():
            return _Block(b"", begins, ends, 0)
        first = int(begins[present].min()) - BLOCK  # with the header before it
        wanted = remote.Range(self.manifest.shard(shard), first, int(ends.max()))
        data: bytes | memoryview
        if is_url(wanted.file):
            data = self._request(wanted)
            nbytes = len(data)
        else:
            data = self._counted(self._memory.read(wanted))
            nbytes = ReusedMemory.bytes_of(data)
        begins, ends = np.where(present, begins - first, 0), np.where(present, ends - first, 0)
        if wrong := _wrong_member(data, begins, ends, index.letters[part]):
            reason = f"holds another member at byte {first + wrong:,} than when it was indexed"
            # its version is that of the index, so indexing again would not read it
            hint = (
                f"delete {self.manifest.index_path(shard)} and run clip-jax data index again; of a subset, the file of "
                "that name in the index it was made from, and data subset, too"
            )
            raise UserError(field=self.manifest.shard(shard), reason=reason, hint=hint)
        return _Block(data, begins, ends, nbytes)

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        ranges = []
        for shard, sample in zip(*(values.tolist() for values in self._locate(rows)), strict=True):
            begins, ends = _spans(self._index(shard).offsets[2:, [sample]])
            begin, end = int(begins[0, 0]), int(ends[0, 0])
            ranges.append(remote.Range(self.manifest.shard(shard), begin, end) if begin else None)
        texts = iter(remote.read([r for r in ranges if r is not None]))
        both = [self._captions(row, next(texts) if r else None) for row, r in zip(rows, ranges, strict=True)]
        return [c if isinstance(c, BrokenRecord) else c[0] for c in both]

    @property
    def _text_member(self) -> str:
        return "json" if self.captions_of else "txt"

    def _record(self, row: int, block: _Block, sample: int) -> Record | BrokenRecord:
        image, text = block.image[sample], block.text[sample]
        if not image.stop:
            return BrokenRecord(field=self.name(row), reason=f"has no image ({', '.join(IMAGES)})")
        captions = self._captions(row, block.data[text] if text.stop else None)
        return captions if isinstance(captions, BrokenRecord) else Record(block.data[image], *captions)

    def _captions(
        self, row: int, text: bytes | memoryview | None
    ) -> tuple[tuple[str, ...], tuple[float, ...]] | BrokenRecord:
        """Return the captions in a sample's text member, and their weights."""
        try:
            if not self.captions_of:
                return decode_captions(text, lambda: self.name(row)), ()
            return json_captions(decode_text(text, "json", lambda: self.name(row)), self.captions_of)
        except BrokenRecord as error:
            return error
        except ValueError as error:
            return BrokenRecord(field=self.name(row), reason=f"its .json {error}")


def _spans(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first byte of members in their shard and the one after their last, int64 [members, N] each."""
    begins = offsets[0::2].astype(np.int64) * BLOCK
    return begins, begins + offsets[1::2]


def _letters(keys: np.ndarray) -> np.ndarray:
    """Return what the headers of samples' members surely begin with, uint8 [N, W]; zeros stand for any letter.

    Args:
      keys: of the samples, bytes [N]. Those that are not ASCII or may not fit a header are left out.
    """
    letters = keys.view(np.uint8).reshape(len(keys), -1)
    doubtful = (letters > 127).any(1, keepdims=True) | letters[:, NAME:].any(1, keepdims=True)
    return np.where(doubtful, np.uint8(0), letters[:, :NAME])


def _wrong_member(data: bytes | memoryview, begins: np.ndarray, ends: np.ndarray, letters: np.ndarray) -> int:
    """Return where a member begins whose header tells another size or key than the index; 0 if there is none.

    Args:
      data: part of a shard.
      begins, ends: of its members in ``data``, int64 [members, N]; 0 where a sample has none.
      letters: of the samples' keys, see `_letters`.
    """
    member, sample = np.nonzero(ends)
    at, end = begins[member, sample], ends[member, sample]
    width = letters.shape[1]
    columns = np.concatenate([np.arange(width + 1), SIZE, [PREFIX]])
    headers = np.frombuffer(data, np.uint8)[(at - BLOCK)[:, None] + columns]
    key = letters[sample]
    length = (key > 0).sum(1)
    dot = headers[np.arange(len(key)), length] == ord(".")  # key 1 is not key 10
    other = ((headers[:, :width] != key) & (key > 0)).any(1) | ((length > 0) & ~dot)
    size = octal_numbers(headers[:, width + 1 : -1])  # not above 0: not told here, as in a header before it
    wrong = (other & (headers[:, -1] == 0)) | ((size > 0) & (size != end - at))  # no prefix: the name has no other part
    return int(at[wrong.argmax()]) if wrong.any() else 0


def octal_numbers(digits: np.ndarray) -> np.ndarray:
    """Return the numbers in fields of a tar header, uint8 [N, 12] -> int64 [N]; -1 for what is none."""
    values = (digits[:, :11].astype(np.int64) - 48) @ (8 ** np.arange(10, -1, -1))
    octal = (digits >= 48) & (digits < 56)
    for row in np.flatnonzero(~octal[:, :11].all(1) | octal[:, 11]).tolist():  # padded otherwise
        text = digits[row].tobytes().lstrip(b" \0").partition(b"\0")[0].strip()
        values[row] = int(text, 8) if text and not text.strip(b"01234567") else -1
    return values


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
