"""JSON and JSON Lines files, local or in a bucket."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_jax.errors import UserError, parse_json
from clip_jax.storage.paths import read_text, write_text
from clip_jax.storage.record_fields import check_fields
from clip_jax.types import JsonObject

Json = Any  # a parsed JSON value; its shape is known to the reader of the record


def write_json(path: Path, values: Mapping[str, object] | Sequence[Mapping[str, object]]) -> None:
    """Write ``values`` to ``path`` atomically: a reader sees the old file or the new one. NaN becomes null."""
    plain = plain_json(dict(values) if isinstance(values, Mapping) else list(values))
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def plain_json(value: object) -> Json:
    """Return ``value`` in JSON types: NumPy scalars as Python numbers, infinity and NaN as None, tuples as lists."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(v) for v in value]
    if hasattr(value, "dtype"):
        value = value.item()  # type: ignore[attr-defined]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> JsonObject | None:
    """Read the object in ``path``; return None if the file does not exist.

    Raises UserError if it is not JSON, or a record whose fields do not match `record_fields.FIELDS`.
    """
    try:
        values = parse_json(read_text(path), path)
    except FileNotFoundError:
        return None
    check_fields(path.name, values, path)
    return values


def read_lines(path: Path) -> list[JsonObject]:
    """Read the rows of a ``.jsonl`` file; skip a last line that a kill truncated. A missing file has no rows."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    return parse_lines(text, path)


def parse_lines(text: str, path: Path) -> list[JsonObject]:
    """Parse the text of a ``.jsonl`` file as `read_lines` does; ``path`` names it in errors."""
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


def lines_text(rows: Iterable[Mapping[str, object]]) -> str:
    """Format rows as the text of a ``.jsonl`` file."""
    return "".join(json.dumps(plain_json(dict(row)), allow_nan=False) + "\n" for row in rows)


def flatten(values: JsonObject, prefix: str = "") -> JsonObject:
    """Flatten nested dictionaries into one with dotted names."""
    out: JsonObject = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
