"""A contact sheet of many sets: one icon each with caption, set and license, and the attributions below."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from clip_jax.datasets.icons.table import Contents, rows_of

if TYPE_CHECKING:
    import pandas as pd

TILES_PER_ROW, WIDTH, TEXT, LINE = 6, 190, 34, 13  # tiles per row; pixels per tile, of its text, per line


def contact_sheet(
    path: Path, table: pd.DataFrame, contents: Contents, licenses: dict[str, str], attributions: dict[str, str],
    count: int = 36,
) -> None:  # fmt: skip
    """Write a PNG with the first icon of each of the first ``count`` sets, in the table's order."""
    from PIL import Image, ImageDraw, ImageFont

    rows = list(rows_of(table.drop_duplicates("set").head(count)))
    pictures = [Image.open(io.BytesIO(contents.picture(row))) for row in rows]
    side = pictures[0].width
    height = side + TEXT + 10
    down = -(-len(rows) // TILES_PER_ROW)
    sheet = Image.new("RGB", (TILES_PER_ROW * WIDTH, down * height + 10 + LINE * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        x, y = (i % TILES_PER_ROW) * WIDTH, (i // TILES_PER_ROW) * height
        sheet.paste(picture, (x + (WIDTH - side) // 2, y + 4))
        caption = contents.texts(row)[0].decode().split("\n")[0]
        for line, text in enumerate((caption, f"{row.set}, {licenses[row.set]}")):
            pen.text((x + 4, y + side + 6 + 14 * line), _plain(text)[:32], "black" if line == 0 else "gray", font)
        whose = f"{row.set}: {attributions[row.set]}"
        pen.text((4, down * height + 6 + LINE * i), _plain(whose), "gray", font)
    sheet.save(path)


def _plain(text: str) -> str:
    """Remove accents, which Pillow's built-in font lacks."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
