"""Tables that fit a terminal."""

import pytest

from clip_jax.sweep.text_table import Column, table_lines

REASON = "Diverged: the loss is nan at step 120; lower optim.peak_lr=0.004"
TABLE = [
    Column("run", ["0123456789ab", "ba9876543210"], 0, left=True),
    Column("loss", ["2.5", "12.25"], 1),
    Column("empty", ["", ""], 0),
    Column("seed", ["1", "2"], 2),
    Column("", ["", REASON], 0, left=True, cut=True),
]


def test_table_lines_without_a_limit_drops_only_empty_columns():
    assert table_lines(TABLE, None) == [
        "  run            loss  seed",
        "  0123456789ab    2.5     1",
        f"  ba9876543210  12.25     2  {REASON}",
    ]


@pytest.mark.parametrize("width", range(40, 120))
def test_table_lines_within_a_width_drop_the_least_important_column(width):
    head, _, last = table_lines(TABLE, width)
    assert max(map(len, (head, last))) <= width
    assert ("seed" in head) == (width >= 53)
    assert ("loss" in head) == (width >= 47)
    assert last.endswith(REASON if width >= len(REASON) + 29 else "…")
