"""Pairs in Parquet files with the images' bytes: row groups are read whole, each once, in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Layout, Record, weighted_captions
from clip_jax.data.sources.block_source import BlockSource
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.data.sources.tar_index import ShardFile
from clip_jax.errors import ConfigError, UserError, foreign, one_of
from clip_jax.storage import range_reads as remote
from clip_jax.storage.paths import is_url

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

TAIL = 64 * 1024  # bytes read from the end of a file, which usually hold its footer
OPEN_FILES = 256  # footers kept in memory
FOOTERS = 16  # footers read at once
READABLE = "a readable Parquet file"


class _File(ShardFile):
    """A file that is read by ranges. What of its end is in ``tail`` is not asked for again."""

    def __init__(self, name: str, size: int, read: Callable[[remote.Range], bytes], tail: bytes = b"") -> None:
        super().__init__(name, size)
        self._read, self._tail = read, tail

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        begin, end = self._at, min(self._at + count, self._size) if count >= 0 else self._size
        self._at, in_tail = end, begin - (self._size - len(self._tail))
        if in_tail >= 0:
            return self._tail[in_tail : in_tail + end - begin]
        return self._read(remote.Range(self._shard, begin, end))


class _Footer(NamedTuple):
    """Part of a file's footer that is kept for the whole run."""

    stat: remote.Stat  # of the file
    rows: list[int]  # of each row group
    nbytes: list[int]  # of each row group, decompressed
    digest: str  # of the footer, which tells where all pages lie


class _Rows:
    """The pairs of one row group."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.nbytes = table, int(table.nbytes)

    def value(self, column: str, row: int) -> object:
        """Return one value of a column, as Python has it."""
        return self.table.column(column)[row].as_py()


class ParquetPairs(BlockSource[_Rows]):
    """Pairs of a column of encoded images and one or more of captions, in the order of the files' row groups.

    A row group is a shard of one block: `BlockSampler` permutes row groups, and shuffles the rows of
    ``window_shards`` of them. Every footer is read when the source is opened.

    Args:
      path: a file, folder, URL or pattern, as for shards.
      split: of a folder with splits.
      image_key: column of binary values, or of structs with a field ``bytes``.
      caption_keys: columns of texts, or of lists of texts.
      caption_weights: the probability of each of them to be drawn from, where a row has it; empty: all alike.
      window_shards, window_mb: row groups that a stream reads at a time, and megabytes that they may take together.

    Raises:
      UserError: a file is missing or no Parquet file, lacks a column or has it in another type.
      ConfigError: so many row groups take more memory than they may.
    """

    hint = "restore it, or begin another run"

    def __init__(
        self,
        path: str | Path,
        split: str,
        image_key: str,
        caption_keys: tuple[str, ...],
        caption_weights: tuple[float, ...],
        window_shards: int,
        window_mb: int,
    ) -> None:
        self.paths, self.image_key = shards_of(path, split, ".parquet"), image_key
        self.captions_of = dict(zip(caption_keys, caption_weights or [1.0] * len(caption_keys), strict=True))
        with ThreadPoolExecutor(FOOTERS) as pool:
            footers = list(pool.map(self._describe, self.paths))
        rows = np.array([n for footer in footers for n in footer.rows], np.int64)
        nbytes = np.array([n for footer in footers for n in footer.nbytes], np.int64)
        groups = [len(footer.rows) for footer in footers]
        if not rows.any():
            raise UserError(field="data.paths", value=str(path), reason="its files have no rows")
        file_of = np.repeat(np.arange(len(groups)), groups)[rows > 0]
        self.group_of = np.concatenate([np.arange(n) for n in groups])[rows > 0]
        rows, nbytes = rows[rows > 0], nbytes[rows > 0]
        largest = int(nbytes.max())
        if largest * window_shards > window_mb * 2**20:
            file = self.paths[int(file_of[nbytes.argmax()])]
            needed = -(-largest * window_shards // 2**20)
            reason = f"{window_shards} row groups (data.window_shards) take up to {needed:,} MB, as one of {file} does"
            hint = f"use data.window_mb={needed}, or write row groups of fewer rows"
            raise ConfigError(field="data.window_mb", value=window_mb, reason=reason, hint=hint)
        names = "".join(
            f"{p.rpartition('/')[2]} {f.stat.size} {f.digest}\n" for p, f in zip(self.paths, footers, strict=True)
        )
        self.content = hashlib.sha256(names.encode()).hexdigest()[:32]
        self.stats = [footer.stat for footer in footers]
        super().__init__(Layout(rows, rows), file_of, largest, window_mb * 2**20)

    def _open(self) -> None:
        super()._open()
        self._metadata = lru_cache(OPEN_FILES)(self._read_metadata)

    @property
    def file_names(self) -> Sequence[str]:
        return self.paths

    def file_stat(self, file: int) -> remote.Stat:
        return self.stats[file]

    @property
    def files(self) -> frozenset[str]:
        return frozenset(p if is_url(p) else os.path.realpath(remote.local_path(p)) for p in self.paths)

    @property
    def digest(self) -> str:
        return self.content

    @property
    def notes(self) -> tuple[str, ...]:
        groups, files = f"{len(self.ends):,} row groups", f"{len(self.paths):,} Parquet files"
        return (f"{groups} in {files}; at most {self.max_bytes / 2**20:,.0f} MB of them are held",)

    def name(self, i: int) -> str:
        (group,), (row,) = self._locate([i])
        return f"{self.paths[int(self.file_of[group])]}: row {row} of row group {int(self.group_of[group])}"

    def _describe(self, name: str) -> _Footer:
        """Read a file's footer, and check its columns."""
        stat = remote.stat(name)
        metadata, digest = _read_footer(name, stat.size)
        with foreign(name, READABLE):
            self._check_columns(name, metadata)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            rows, nbytes = [group.num_rows for group in groups], [group.total_byte_size for group in groups]
            if min(rows + nbytes, default=0) < 0:
                raise ValueError("a row group of negative size")
            return _Footer(stat, rows, nbytes, digest)

    def _check_columns(self, name: str, metadata: FileMetaData) -> None:
        """Raise UserError unless a file has the columns, in types that hold images and captions."""
        import pyarrow.types as types

        schema = metadata.schema.to_arrow_schema()
        for field, key in (("data.image_key", self.image_key), *(("data.caption_keys", k) for k in self.captions_of)):
            one_of(field, key, schema.names, name)
            kind = schema.field(key).type
            if field == "data.image_key":
                fits = _holds_bytes(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
                wanted = "encoded images: binary, or a struct with a field bytes"
            else:
                element = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
                element = element.value_type if types.is_dictionary(element) else element
                fits = types.is_string(element) or types.is_large_string(element)
                wanted = "texts, or lists of texts"
            if not fits:
                raise UserError(source=name, field=field, value=key, reason=f"holds {kind}, and must hold {wanted}")

    def _leaves(self, metadata: FileMetaData, images: bool) -> list[str]:
        """Return the names of the columns to read; of a struct of images its bytes alone."""
        struct = not _holds_bytes(metadata.schema.to_arrow_schema().field(self.image_key).type)
        return [*([f"{self.image_key}.bytes" if struct else self.image_key] if images else []), *self.captions_of]

    def _read_metadata(self, file: int) -> FileMetaData:
        self._check_file(file)
        return _read_footer(self.paths[file], self.stats[file].size)[0]

    def _rows(self, group: int, images: bool) -> _Rows:
        """Read a row group, with or without its images."""
        from pyarrow.parquet import ParquetFile

        file, number = int(self.file_of[group]), int(self.group_of[group])
        name, size, metadata = self.paths[file], self.stats[file].size, self._metadata(file)
        with foreign(f"{name}: row group {number}", "readable"):
            file_in_ranges = ParquetFile(_File(name, size, self._request), metadata=metadata, pre_buffer=True)
            columns = self._leaves(metadata, images)
            table = file_in_ranges.read_row_group(number, columns=columns, use_threads=False)
            if len(table) < self.layout.counts[group]:
                raise ValueError(f"{len(table)} rows, not {self.layout.counts[group]}")
            return _Rows(table)

    def read_block(self, shard: int, number: int) -> _Rows:
        return self._rows(shard, images=True)

    def _record(self, row: int, block: _Rows, sample: int) -> Record | BrokenRecord:
        value = block.value(self.image_key, sample)
        image = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(image, bytes) or not image:
            return BrokenRecord(field=self.name(row), reason=f"has no image in {self.image_key}")
        captions = self._captions(row, block, sample)
        return captions if isinstance(captions, BrokenRecord) else Record(image, *captions)

    def _captions(self, i: int, block: _Rows, row: int) -> tuple[tuple[str, ...], tuple[float, ...]] | BrokenRecord:
        try:
            return weighted_captions({key: block.value(key, row) for key in self.captions_of}, self.captions_of)
        except ValueError as error:
            return BrokenRecord(field=self.name(i), reason=str(error))

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        shards, samples = (values.tolist() for values in self._locate(rows))
        groups = {group: self._rows(group, images=False) for group in dict.fromkeys(shards)}
        both = [self._captions(i, groups[n], row) for i, n, row in zip(rows, shards, samples, strict=True)]
        return [c if isinstance(c, BrokenRecord) else c[0] for c in both]


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _read_footer(name: str, size: int) -> tuple[FileMetaData, str]:
    """Return a file's metadata and the hash of its footer. Raises UserError when it is no Parquet file."""
    from pyarrow.parquet import read_metadata

    tail = remote.read([remote.Range(name, max(0, size - TAIL), size)])[0]
    length = int.from_bytes(tail[-8:-4], "little") + 8
    with foreign(name, READABLE):
        if tail[-4:] != b"PAR1" or length > size:
            raise ValueError("no footer at its end")
        if length > len(tail):
            tail = remote.read([remote.Range(name, size - length, size)])[0]
        metadata = read_metadata(_File(name, size, lambda wanted: remote.read([wanted])[0], tail))
        return metadata, hashlib.sha256(tail[-length:]).hexdigest()
