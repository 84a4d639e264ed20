"""Record which rows a law was fitted to, and with which package versions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

VERSIONED_PACKAGES = {
    "clip_jax": "clip-jax-scaling",
    "jax": "jax",
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
}


def rows_hash(rows: pd.DataFrame) -> str:
    """Return the SHA-256 of a table, independent of the order of its rows and columns.

    Columns are sorted by name; each row becomes ``name=value`` pairs joined by tabs (numbers as the shortest text that
    reads back as the same float64, so 1 and 1.0 are one number; a missing value as the empty text); rows are sorted as
    text and joined by newlines, in UTF-8.
    """
    columns = sorted(map(str, rows.columns))
    texts = [[f"{c}={t}" for t in _texts(rows[c])] for c in columns]
    lines = sorted(map("\t".join, zip(*texts, strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _texts(column: pd.Series) -> list[str]:
    """Return `_text` of every value."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column.dtype) and not column.isna().any():
        return list(map(repr, column.to_numpy(float).tolist()))
    return [_text(v) for v in column]


def _text(value: object) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def versions() -> dict[str, str]:
    """Return the versions of this package and of the packages that compute."""
    from importlib.metadata import PackageNotFoundError, version

    installed = {}
    for name, distribution in VERSIONED_PACKAGES.items():
        try:
            installed[name] = version(distribution)
        except PackageNotFoundError:
            installed[name] = "not installed as a distribution"
    return installed
