"""Delimited text (CSV, TSV, ...): decoding, delimiter detection and rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from clip_jax.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a spreadsheet's "Unicode text" begins


def decode(path: Path, raw: bytes) -> str:
    """Decode UTF-8 with or without a byte-order mark, or UTF-16 with one; raise UserError naming the first bad line."""
    try:
        return raw.decode("utf-16" if raw[:2] in UTF_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        reason = "is not UTF-8 text"
        raise UserError(source=path, field=f"line {line}", reason=reason, hint="save it as UTF-8") from None


def records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Split text into (line number, fields), skipping blank lines as pandas does. Raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return ((reader.line_num, r) for r in reader if len(r) > 1 or (r and r[0].strip()))


def separator_of(path: Path, text: str, separators: Mapping[str, str] = SEPARATORS) -> str:
    """Find the separator: the only one in the header, or, if there are several, the one with equal columns in all rows.

    Args:
      path: the file, for the error message.
      text: the content of the file.
      separators: candidate characters and their names.

    Raises:
      UserError: two separators fit equally well.
    """
    candidates = [s for s in separators if len(next(records(text, s), (0, []))[1]) > 1]
    if len(candidates) < 2:
        return candidates[0] if candidates else ","
    widths = {s: [len(fields) for _, fields in records(text, s)] for s in candidates}
    even = [s for s in candidates if len(set(widths[s])) == 1]
    if len(even) > 1:
        names = " or ".join(separators[s] for s in even)
        raise UserError(field=path, reason=f"its columns may be separated by {names}", hint="save it with one of them")
    return even[0] if even else max(candidates, key=lambda s: widths[s][0])
