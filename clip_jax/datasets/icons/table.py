"""The table of all icons, one row per image, from which split, tasks and shards are made.

Images and texts stay in the work files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from clip_jax.datasets.icons.captions import members
from clip_jax.datasets.icons.names import Names
from clip_jax.datasets.icons.package import IconSet
from clip_jax.datasets.icons.render import load_rendered

if TYPE_CHECKING:
    import pandas as pd

TABLE_COLUMNS = [
    "set", "name", "kind", "base", "shown", "style", "country", "skin", "group", "hash", "digest", "start", "end",
    "text", "about", "over",
]  # fmt: skip


def describe(icons: IconSet, work: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the rows of a rendered set, and the reason for each icon left out; write its texts to WORK/PREFIX.texts.

    Columns: set, name, kind, base, shown, style, country, skin, group (of an emoji), hash and digest (uint64), start
    and end of the image; text, about and over: the offsets where the caption begins, where the record begins, and where
    both end.
    """
    import pandas as pd

    drawn, names = load_rendered(work, icons.prefix), Names(icons)
    rows, left_out, over = [], dict(drawn.left_out), 0
    with (work / f"{icons.prefix}.texts").open("wb") as file:
        for i, icon in enumerate(drawn.names):
            start, end = int(drawn.ends[i - 1]) if i else 0, int(drawn.ends[i])
            texts = members(icons, names, icon)
            if texts is None:
                left_out[icon] = "nameless"
                continue
            file.write(b"".join(texts))
            text, about = over, over + len(texts[0])
            over = about + len(texts[1])
            name = names.read(icon)
            group = icons.categories.get(icon, ("",))[0] if names.kind == "emoji" else ""
            rows.append((
                icons.prefix, icon, names.kind, name.base, name.shown, name.style_class, name.country, name.skin, group,
                drawn.hashes[i], drawn.digests[i], start, end, text, about, over,
            ))  # fmt: skip
    table = pd.DataFrame(rows, columns=TABLE_COLUMNS).astype({"hash": "uint64", "digest": "uint64"})
    return table.astype(dict.fromkeys(("set", "kind", "style", "country", "skin", "group"), "category")), left_out


def shuffled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables, ordered by a hash of the names, so that any prefix is a fair sample."""
    import pandas as pd

    table = pd.concat(tables, ignore_index=True)
    keys = [
        hashlib.blake2b(f"{s}/{n}".encode(), digest_size=16).digest()
        for s, n in zip(table["set"], table["name"], strict=True)
    ]
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


class IconRow(Protocol):
    """A row of the table, with the offsets of its image and its texts in the work files."""

    set: str
    name: str
    start: int
    end: int
    text: int
    about: int
    over: int


def rows_of(table: pd.DataFrame) -> Iterator[IconRow]:
    """Yield the rows of the table."""
    return cast(Iterator[IconRow], table.itertuples())


@dataclass
class Contents:
    """Reader of a row's image and texts in the work files, which stay open."""

    work: Path

    def __post_init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}

    def _read(self, name: str, start: int, end: int) -> bytes:
        if name not in self._files:
            self._files[name] = (self.work / name).open("rb")
        file = self._files[name]
        file.seek(start)
        return file.read(end - start)

    def picture(self, row: IconRow) -> bytes:
        return self._read(f"{row.set}.pictures", row.start, row.end)

    def texts(self, row: IconRow) -> tuple[bytes, bytes]:
        """Return the caption lines and the record."""
        name = f"{row.set}.texts"
        return self._read(name, row.text, row.about), self._read(name, row.about, row.over)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
