"""Figures that notebooks show."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

SCREEN_DPI = 110


class Figure(MatplotlibFigure):
    """A matplotlib figure without pyplot's global state. Jupyter shows it as a picture, whatever its backend."""

    def __init__(self, width: float, height: float) -> None:
        """Make an empty figure; sizes in inches."""
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """Return the picture that IPython displays."""
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=SCREEN_DPI)
        return png.getvalue()

    def picture(self) -> Image.Image:
        """Return the figure as an image."""
        return Image.open(io.BytesIO(self._repr_png_())).convert("RGB")
