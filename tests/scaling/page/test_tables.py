"""Numbers and tables of the page."""

import numpy as np

from clip_jax.scaling.page.tables import table, text_of


def test_values_read_well():
    assert [text_of(v) for v in (None, float("nan"), True, 1234, 0.12345, 1.5e12, "x", np.float64(64.0), 4096.0)] == [
        "–", "–", "yes", "1,234", "0.1235", "1.500e+12", "x", "64", "4,096",
    ]  # fmt: skip


def test_cells_are_escaped_and_sort_by_value():
    html = table([{"a": "<b>", "n": 1e12}], ("a", "n"), sortable=True)
    assert "&lt;b&gt;" in html
    assert 'data-v="1000000000000.0"' in html
    assert 'class="sort"' in html
    assert "<button" in html
