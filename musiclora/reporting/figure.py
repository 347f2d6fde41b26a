"""Matplotlib figures as PNG bytes."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """Draw a matplotlib Figure as PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # titles in any script
        canvas.figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
