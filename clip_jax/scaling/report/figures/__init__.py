"""Publication figures, one function each: takes an `Analysis`, returns a matplotlib Figure or raises `NotDrawn`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clip_jax.plotting.style import HOUSE, NotDrawn
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.report.figures.cloud import cloud
from clip_jax.scaling.report.figures.curves import error_vs_flops
from clip_jax.scaling.report.figures.files import FORMATS, remove_figure, write_figure
from clip_jax.scaling.report.figures.isoflop import allocation, isoflop
from clip_jax.scaling.report.figures.learning import learning_curves
from clip_jax.scaling.report.figures.parametric import contour
from clip_jax.scaling.report.figures.residuals import residuals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# file name -> (title, function that draws it), in the order of a report
FIGURES: dict[str, tuple[str, Callable[[Analysis], Figure]]] = {
    "error_vs_flops": ("Error against compute", error_vs_flops),
    "learning_curves": ("Learning curves", learning_curves),
    "isoflop": ("IsoFLOP valleys", isoflop),
    "allocation": ("Allocation of compute", allocation),
    "contour": ("Error over size and samples", contour),
    "residuals": ("Residuals and influence", residuals),
    "cloud": ("Bootstrap cloud", cloud),
}

__all__ = ["FIGURES", "FORMATS", "NotDrawn", "draw", "draw_all"]


def draw(name: str, analysis: Analysis) -> Figure:
    """Draw one figure in the style of `clip_jax.plotting`.

    Args:
      name: key of `FIGURES`.
      analysis: of `analyze`.

    Returns:
      A matplotlib Figure.

    Raises:
      NotDrawn: the table cannot give this figure; the message is the reason.
    """
    from matplotlib import rc_context

    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure = FIGURES[name][1](analysis)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is done; saving would repeat it twice
        return figure


def draw_all(analysis: Analysis, out_dir: Path) -> dict[str, str | None]:
    """Write NAME.png, NAME.pdf and NAME.svg for each figure.

    Files of an earlier report under a name that is left out are removed.

    Args:
      analysis: of `analyze`.
      out_dir: the folder, or a bucket's.

    Returns:
      Name -> None, or the reason why the figure was left out.
    """
    reasons: dict[str, str | None] = {}
    for name in FIGURES:
        path = out_dir / f"{name}.png"
        try:
            write_figure(path, draw(name, analysis))
            reasons[name] = None
        except NotDrawn as reason:
            reasons[name] = str(reason)
            remove_figure(path)
    return reasons
