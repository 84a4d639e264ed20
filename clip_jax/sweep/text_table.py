"""A table of text that fits the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP, INDENT, LEAST_CUT = "  ", "  ", 24


@dataclass(frozen=True)
class Column:
    """A column: its head, its cells, and its rank; the highest ranks give way first, 0 never does."""

    head: str
    cells: Sequence[str]
    rank: int
    left: bool = False  # flush left, not right
    cut: bool = False  # may be shortened, down to `LEAST_CUT` columns

    @property
    def width(self) -> int:
        """Columns that it needs."""
        return max(map(len, (self.head, *self.cells)))

    @property
    def least(self) -> int:
        """Columns that it needs if it is shortened."""
        return min(self.width, LEAST_CUT) if self.cut else self.width


def table_lines(columns: Sequence[Column], width: int | None) -> list[str]:
    """Return the head and one line per row, at most ``width`` wide (None: no limit); empty columns are left out."""
    kept = [column for column in columns if any(column.cells)]
    while width is not None and _needed(kept) > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    spare = None if width is None else width - _needed(kept)
    lines = []
    for row in zip(*((column.head, *column.cells) for column in kept), strict=True):
        parts = []
        for column, text in zip(kept, row, strict=True):
            most = column.width if spare is None or not column.cut else max(column.least + spare, column.least)
            text = text if len(text) <= most else text[: most - 1] + "…"
            parts.append(text.ljust(column.width if not column.cut else 0) if column.left else text.rjust(column.width))
        lines.append((INDENT + GAP.join(parts)).rstrip())
    return lines


def _needed(columns: Sequence[Column]) -> int:
    return len(INDENT) + sum(column.least for column in columns) + len(GAP) * (len(columns) - 1)
