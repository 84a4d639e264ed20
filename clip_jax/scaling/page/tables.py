"""Tables of the page, escaped and readable."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

WORDS = ("status", "verdict", "reason", "law", "form")


def text_of(value: Any) -> str:
    """A value for a reader."""
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


def table(rows: list[dict[str, Any]], columns: tuple[str, ...], *, sortable: bool = False) -> str:
    """An HTML table; cells carry their numbers, so that a click sorts by value."""

    def head(column: str) -> str:
        words = html.escape(column.replace("_", " "))
        return f'<th scope="col"><button type="button">{words}</button></th>' if sortable else f"<th>{words}</th>"

    def cell(column: str, value: Any) -> str:
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)
        sort = f' data-v="{float(value)!r}"' if number else ""
        kind = ' class="words"' if column in WORDS and isinstance(value, str) and len(value) > 30 else ""
        return f"<td{kind}{sort}>{html.escape(text_of(value))}</td>"

    body = "".join("<tr>" + "".join(cell(c, r.get(c)) for c in columns) + "</tr>" for r in rows)
    kind = ' class="sort"' if sortable else ""
    headings = "".join(head(c) for c in columns)
    return f'<div class="scroll"><table{kind}><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'
