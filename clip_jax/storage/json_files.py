"""JSON objects and lines of JSON in files, here or in a bucket."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clip_jax.errors import UserError, parse_json
from clip_jax.storage.paths import read_text, write_text
from clip_jax.storage.record_fields import check_fields


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace ``path`` by ``values`` in one move: a reader sees the old file or the new one. NaN becomes null."""
    write_text(path, json.dumps(plain_json(values), indent=1, allow_nan=False) + "\n")


def plain_json(value: Any) -> Any:
    """Return ``value`` as JSON's own types: numbers of numpy as Python's, what is infinite or NaN as None."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(v) for v in value]
    if hasattr(value, "dtype"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when there is no such file. Raises UserError when it is not JSON, or a record of
    another shape than `shapes.FIELDS` says."""
    try:
        values = parse_json(read_text(path), path)
    except FileNotFoundError:
        return None
    check_fields(path.name, values, path)
    return values


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` file; a last line cut short by a kill is passed over."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    return parse_lines(text, path)


def parse_lines(text: str, path: Path) -> list[dict[str, Any]]:
    rows = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = parse_json(line, where := f"{path}: line {number}")
            check_fields(path.name, row, where)
            rows.append(row)
        except UserError:
            if number < len(lines):
                raise
    return rows


def lines_text(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(plain_json(row), allow_nan=False) + "\n" for row in rows)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
