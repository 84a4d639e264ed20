"""A folder of images with a CSV of captions."""

from __future__ import annotations

import csv
import hashlib
import posixpath
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Record, Source
from clip_jax.errors import UserError, name_within, one_line
from clip_jax.storage.delimited import SEPARATORS, decode, records, separator_of

CAPTION_SEPARATORS = {**SEPARATORS, "|": "bars"}


def holds_captions(path: Path) -> bool:
    """Return whether a `CaptionedFolder` lies here, or in a folder for each split."""
    return any(next(path.glob(pattern), None) for pattern in ("captions.csv", "*/captions.csv"))


class CaptionedFolder(Source):
    """A folder with ``captions.csv`` in PATH/SPLIT/ or PATH/: one image name and one caption per row.

    An image with several rows has several captions.

    Args:
      path: the folder.
      split: used as a subfolder if PATH/SPLIT/ exists.
      columns: names of the columns with image names and captions.

    Raises:
      UserError: the table or a column is missing, or a row is malformed.
    """

    def __init__(self, path: Path, split: str, columns: tuple[str, str] = ("filename", "caption")) -> None:
        self.root = path / split if (path / split).is_dir() else path
        self.table = self.root / "captions.csv"
        splits = sorted(table.parent.name for table in path.glob("*/captions.csv"))
        if not self.table.is_file() and splits and self.root == path:
            reason = f"has no split {split!r}; the splits are {', '.join(splits)}"
            hint = "name one of them, or hold out a part of the training split with data.val_fraction"
            raise UserError(field="data.paths", value=path, reason=reason, hint=hint)
        if not self.table.is_file():
            hint = f"a folder of pictures needs it, with columns {','.join(columns)}"
            raise UserError(field=self.table, reason="no such file", hint=hint)
        try:
            raw = self.table.read_bytes()
        except OSError as error:
            raise UserError(field=self.table, reason=error.strerror) from None
        self._sha = hashlib.sha256(raw).hexdigest()
        text = decode(self.table, raw)
        self.rows: dict[str, list[str]] = {}
        try:
            separator = separator_of(self.table, text, CAPTION_SEPARATORS)
            for name, caption in self._pairs(records(text, separator), separator, columns):
                self.rows.setdefault(name, []).append(caption)
        except csv.Error as error:
            raise self._error(str(error), hint="is a quote never closed, or a field too long?") from None
        self.names = list(self.rows)
        self._layout = f"columns {', '.join(columns)}, separated by {CAPTION_SEPARATORS[separator]}"

    def _error(self, reason: str, line: int | None = None, hint: str | None = None) -> UserError:
        return UserError(
            source=self.table if line else None, field=f"line {line}" if line else self.table, reason=reason, hint=hint
        )

    def _pairs(
        self, rows: Iterator[tuple[int, list[str]]], separator: str, columns: tuple[str, str]
    ) -> Iterator[tuple[str, str]]:
        """Yield (image name, caption) for each row below the header."""
        head = [name.strip() for name in next(rows, (0, []))[1]]
        for field, column in zip(("data.filename_column", "data.caption_column"), columns, strict=True):
            if head.count(column) != 1:
                reason = "no such column" if column not in head else "two columns have this name"
                hint = f"the columns are {one_line(', '.join(head)) or 'none'}"
                raise UserError(source=self.table, field=field, value=column, reason=reason, hint=hint)
        indices = [head.index(column) for column in columns]
        for line, fields in rows:
            if len(fields) < len(head) or any(map(str.strip, fields[len(head) :])):
                hint = f"put quotes around each field that contains {CAPTION_SEPARATORS[separator]}"
                raise self._error(f"{len(fields)} fields, and the header has {len(head)}", line, hint)
            name, caption = (fields[index].strip() for index in indices)
            yield self._checked_name(name, line), caption

    def _checked_name(self, name: str, line: int) -> str:
        """Return the normalized name. Raises UserError when it leads out of the folder."""
        try:
            return name_within("filename", posixpath.normpath(name), folders=True)
        except UserError as error:
            raise self._error(f"{one_line(name)!r} {error.reason}", line) from None

    @property
    def digest(self) -> str:
        sizes = (str(_size(self.root / name)) for name in self.names)
        return hashlib.sha256(f"{self._sha} {' '.join(sizes)}".encode()).hexdigest()[:32]

    @property
    def notes(self) -> tuple[str, ...]:
        rows = sum(map(len, self.rows.values()))
        return (f"{self.table}: {self._layout}; {len(self.names):,} pictures, {rows:,} captions",)

    @property
    def files(self) -> frozenset[str]:
        root = self.root.resolve()
        return frozenset(f"{root}/{name}" for name in self.names)

    def hashes(self) -> np.ndarray:
        """Return hashes of the image names, so that rows added later do not change a record's hash."""
        digests = (hashlib.sha256(name.encode()).digest()[:8] for name in self.names)
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.root / self.names[i])

    def captions(self, i: int) -> tuple[str, ...]:
        """Return the captions of record ``i``. Raises BrokenRecord when all are empty."""
        captions = tuple(c for c in self.rows[self.names[i]] if c)
        if not captions:
            raise BrokenRecord(field=self.name(i), reason="has no caption")
        return captions

    def __getitem__(self, i: int) -> Record:
        path = self.root / self.names[i]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BrokenRecord(field=path, reason=error.strerror) from None
        return Record(data, self.captions(i))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
