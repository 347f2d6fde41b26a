"""Matplotlib figures as PNG bytes."""

from __future__ import annotations

import io
import warnings
from typing import Any


def figure_png(figure: Any, dpi: int = 110) -> bytes:
    """PNG bytes of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # titles in any script
        canvas.figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
