"""The contact sheet: a tile a set, and room for who made each."""

import numpy as np
from PIL import Image


def test_contact_sheet_has_a_tile_and_a_line_per_set(tiny):
    out, manifest = tiny
    sheet = np.asarray(Image.open(out / "contact_sheet.png").convert("L"))
    tiles, lines = sheet[: 2 * (32 + 44)], sheet[2 * (32 + 44) :]
    sets = len(manifest["sets"])
    assert sum((tiles[y : y + 36, x : x + 190] < 128).any() for y in (0, 76) for x in range(0, 1140, 190)) == sets
    inked = (lines < 200).any(axis=1)
    assert int((np.diff(inked.astype(int)) == 1).sum()) >= sets
