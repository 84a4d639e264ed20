"""A folder of images with a CSV of captions."""

from __future__ import annotations

import csv
from pathlib import Path

from clip_jax.checks import foreign, name_within
from clip_jax.config import UserError
from clip_jax.data.sources import BrokenRecord, Record, Source


class CaptionedFolder(Source):
    """``captions.csv`` with columns ``filename`` and ``caption``, in PATH/SPLIT/ or PATH/; repeated file names
    give an image several captions. Raises UserError when the table or a column is missing."""

    def __init__(self, path: Path, split: str) -> None:
        self.root = path / split if (path / split).is_dir() else path
        table = self.root / "captions.csv"
        if not table.is_file():
            raise UserError(f"{table}: no such file; a folder source needs columns filename,caption there")
        self.rows: dict[str, list[str]] = {}
        with foreign(table, "a table of captions"), table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"filename", "caption"} - set(reader.fieldnames or ())
            if missing:
                raise UserError(f"{table}: lacks the column {', '.join(sorted(missing))}")
            for row in reader:
                name_within(f"{table}: filename", row["filename"], folders=True)
                self.rows.setdefault(row["filename"], []).append((row["caption"] or "").strip())
        self.names = list(self.rows)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.root / self.names[i])

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions of record ``i``. Raises BrokenRecord when all are empty."""
        found = tuple(c for c in self.rows[self.names[i]] if c)
        if not found:
            raise BrokenRecord(f"{self.name(i)}: has no caption")
        return found

    def __getitem__(self, i: int) -> Record:
        path = self.root / self.names[i]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BrokenRecord(f"{path}: {error.strerror}") from None
        return Record(data, self.captions(i))
