"""Write figures: the only module that turns a matplotlib Figure into files, local or in a bucket."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_jax.plotting.style import HOUSE
from clip_jax.storage.paths import remove, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# metadata that would record the time or the machine of writing
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}


def as_bytes(figure: Figure, format: str = "png") -> bytes:
    """Render a figure as the content of a file; the same figure gives the same bytes.

    PDFs embed TrueType fonts (Type 42) and SVGs keep text as text, so that both can be searched and edited.
    """
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure.savefig(out, format=format, metadata=FORMATS[format])
    return out.getvalue()


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in every format of `FORMATS`, beside one another.

    Args:
      path: of the PNG, which may lie in a bucket; the other formats differ in the suffix.
      figure: a matplotlib Figure.

    Raises:
      UserError: the disk is full, or the bucket refuses.
    """
    for format in FORMATS:
        write_bytes(path.with_suffix(f".{format}"), as_bytes(figure, format))


def remove_figure(path: Path) -> None:
    """Remove a figure of an earlier report in every format, where it exists."""
    for format in FORMATS:
        remove(path.with_suffix(f".{format}"))
