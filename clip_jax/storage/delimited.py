"""Text of separated fields, as spreadsheets and data sets have it: which separator it has, and its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from clip_jax.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a spreadsheet's "Unicode text" begins


def decode(path: Path, raw: bytes) -> str:
    """UTF-8 with or without a byte-order mark, or UTF-16 with one. Raises UserError naming the line that is neither."""
    try:
        return raw.decode("utf-16" if raw[:2] in UTF_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        reason, hint = f"line {line} is not UTF-8 text", "save it as UTF-8"
        raise UserError(f"{path}: {reason}; {hint}", field=str(path), value=line, reason=reason, hint=hint) from None


def records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Split text into (line number, fields), blank lines left out as pandas does. Raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return ((reader.line_num, r) for r in reader if len(r) > 1 or (r and r[0].strip()))


def separator_of(path: Path, text: str, separators: Mapping[str, str] = SEPARATORS) -> str:
    """Find the separator: the one of the header, or where the header has several, the one that fits every row.

    Args:
      path: named in an error.
      text: what the file holds.
      separators: those that may be, and what they are called.

    Raises:
      UserError: where two fit.
    """
    found = [s for s in separators if len(next(records(text, s), (0, []))[1]) > 1]
    if len(found) < 2:
        return found[0] if found else ","
    widths = {s: [len(fields) for _, fields in records(text, s)] for s in found}
    even = [s for s in found if len(set(widths[s])) == 1]
    if len(even) > 1:
        reason = f"columns may be separated by {' or '.join(separators[s] for s in even)}"
        raise UserError(f"{path}: {reason}", field=str(path), reason=reason)
    return even[0] if even else max(found, key=lambda s: widths[s][0])
