"""Plot of the mean spectra of two sets of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.evaluation.audio_features import ANALYSIS_RATE, MELS
from musiclora.reporting.figure import figure_png

_GENERATED, _REFERENCE, _GREY = "#c2571a", "#2563a8", "#57534e"
_TICKS_HZ = (100, 200, 500, 1000, 2000, 5000, 10000)


def spectra_figure(generated: np.ndarray, reference: np.ndarray) -> Any:
    """Draw the mean spectrum of each set, with the band from its 10th to its 90th percentile.

    Args:
        generated, reference: mean log-mel spectra in dB, [N, 128] and [M, 128].

    Returns:
        A matplotlib Figure.
    """
    import librosa
    from matplotlib.figure import Figure

    hertz = librosa.mel_frequencies(n_mels=MELS + 2, fmin=0, fmax=ANALYSIS_RATE / 2)[
        1:-1
    ]  # the outer two are only edges
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, spectra, colour in (("reference", reference, _REFERENCE), ("generated", generated, _GENERATED)):
        low, high = np.percentile(spectra, [10, 90], axis=0)
        axis.fill_between(hertz, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(hertz, spectra.mean(axis=0), color=colour, linewidth=1.8, label=f"{name}, {len(spectra)} recordings")
    axis.set_xscale("log")
    axis.set_xlim(hertz[0], hertz[-1])
    axis.set_xticks(_TICKS_HZ, [f"{tick:,}" for tick in _TICKS_HZ])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("frequency, Hz", color=_GREY)
    axis.set_ylabel("mean level of a mel band, dB", color=_GREY)
    axis.grid(color="#e7e5e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_GREY, labelsize=9)
    axis.legend(frameon=False, fontsize=9)
    for side in axis.spines.values():
        side.set_visible(False)
    return figure


def spectra_picture(path: Path, generated: np.ndarray, reference: np.ndarray, *, overwrite: bool) -> None:
    """Write the plot as a PNG file, atomically; see `spectra_figure`."""
    atomic_write(path, figure_png(spectra_figure(generated, reference), dpi=130), overwrite=overwrite)
