"""Numbers and tables of the page."""

import numpy as np

from clip_jax.scaling.report.page.tables import column_texts, table, text_of


def test_text_of_formats_values():
    assert [text_of(v) for v in (None, float("nan"), True, 1234, 0.12345, 1.5e12, "x", np.float64(64.0), 4096.0)] == [
        "–", "–", "yes", "1,234", "0.1235", "1.500e+12", "x", "64", "4,096",
    ]  # fmt: skip


def test_table_cells_are_escaped_and_sort_by_value():
    html = table([{"a": "<b>", "n": 1e12}], ("a", "n"), sortable=True)
    assert "&lt;b&gt;" in html
    assert 'data-v="1000000000000.0"' in html
    assert 'class="sort"' in html
    assert "<button" in html


def test_column_texts_equal_decimals():
    assert column_texts([0.06136, 0.1, None]) == ["0.0614", "0.1000", "–"]
    assert column_texts([125952.0, 1093632.0]) == ["125,952", "1,093,632"]
    assert column_texts([1e14, 2.2e13]) == ["1.000e+14", "2.200e+13"]
    assert column_texts([3.964e12, 0.9876]) == ["3.964e+12", "0.9876"]
    assert column_texts([3, 4]) == ["3", "4"]
    assert column_texts([True, None]) == ["yes", "–"]
    assert column_texts([0.0, None]) == ["0", "–"]


def test_table_numbers_right_words_left():
    html = table([{"form": "a", "low": 0.5}], ("form", "low"))
    assert '<th scope="col" class="number">low</th>' in html
    assert '<td class="number" data-v="0.5">' in html
    assert '<th scope="col">form</th>' in html
    assert "<td>a</td>" in html
