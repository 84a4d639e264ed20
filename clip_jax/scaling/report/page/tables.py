"""Format the tables of the page, escaped and readable."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np

HUGE, TINY, SPAN = 1e9, 1e-4, 1e4  # from, and below, which numbers are powers of ten; of one order of magnitude
WORDS = ("status", "verdict", "reason", "law", "form")


def text_of(value: object) -> str:
    """Format a value for a reader."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and 1e3 <= abs(value) < 1e6:
            return f"{value:,.0f}"
        return f"{value:.3e}" if abs(value) >= 1e6 or 0 < abs(value) < 1e-3 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e9 else f"{value:.3e}"
    return str(value)


def column_texts(values: Sequence[object]) -> list[str]:
    """Format a column: numbers of one order of magnitude with equal decimals, so that points align.

    The largest has four digits; whole numbers have thousands separated; computes and other columns that reach a
    million million are in powers of ten. Columns that mix magnitudes are written value by value.
    """
    numbers = [v for v in values if is_number(v)]
    sizes = [abs(float(v)) for v in numbers if v]
    if not sizes:
        return [text_of(v) for v in values]
    least, most = min(sizes), max(sizes)
    if most >= HUGE or least < TINY:
        form = "{:.3e}" if (least >= HUGE / SPAN and most >= HUGE) or most < TINY else ""
    elif most / least > SPAN and most >= 1e3 and least < 1:
        form = ""
    elif all(float(v).is_integer() for v in numbers) or least >= 1e3:
        form = "{:,.0f}"
    else:
        form = f"{{:,.{max(0, 3 - int(np.floor(np.log10(most))))}f}}"
    return [form.format(float(v)) if form and is_number(v) else text_of(v) for v in values]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number and not a bool."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(np.isfinite(value))


def table(rows: Sequence[Mapping[str, object]], columns: tuple[str, ...], *, sortable: bool = False) -> str:
    """Format an HTML table; words are aligned left and numbers right, and cells carry their numbers, for sorting by
    a click.
    """
    texts = {c: column_texts([r.get(c) for r in rows]) for c in columns}
    words = {c for c in columns if any(isinstance(r.get(c), str) for r in rows)}

    def head(column: str) -> str:
        text = html.escape(column.replace("_", " "))
        inside = f'<button type="button">{text}</button>' if sortable else text
        return f'<th scope="col"{kind_of(column)}>{inside}</th>'

    def kind_of(column: str, value: object = None) -> str:
        if column not in words:
            return ' class="number"'
        return ' class="words"' if column in WORDS and isinstance(value, str) and len(value) > 30 else ""

    def cell(column: str, i: int) -> str:
        value = rows[i].get(column)
        sort = f' data-v="{float(value)!r}"' if is_number(value) else ""
        return f"<td{kind_of(column, value)}{sort}>{html.escape(texts[column][i])}</td>"

    body = "".join("<tr>" + "".join(cell(c, i) for c in columns) + "</tr>" for i in range(len(rows)))
    kind = ' class="sort"' if sortable else ""
    headings = "".join(head(c) for c in columns)
    return f'<div class="scroll"><table{kind}><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'
