"""Numbers and tables of the page."""

from clip_jax.scaling.page import _table, _text


def test_values_read_well():
    assert [_text(v) for v in (None, float("nan"), True, 1234, 0.12345, 1.5e12, "x")] == [
        "–", "–", "yes", "1,234", "0.1235", "1.500e+12", "x",
    ]  # fmt: skip


def test_cells_are_escaped_and_sort_by_value():
    html = _table([{"a": "<b>", "n": 1e12}], ("a", "n"), sortable=True)
    assert "&lt;b&gt;" in html
    assert 'data-v="1000000000000.0"' in html
    assert 'class="sort"' in html
