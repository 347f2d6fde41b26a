"""Click detector: isolated spikes in the residual of linear prediction."""

from __future__ import annotations

import numpy as np

_ORDER = 16  # of the predictor
_FRAME_SECONDS = 0.04  # over which it is fitted
_FRAMES_AT_ONCE = 512  # bounds the memory
_BLOCK_SECONDS = 0.001
_NEAR_BLOCKS = 20  # blocks of either side that a click is compared with
_GAP_BLOCKS = 2  # blocks next to a click that belong to it: its spike may lie on a border
_TOLERATED = 2  # other clicks that may lie on either side
_FACTOR = 5.0  # 14 dB above the surroundings
_PULSE_BLOCKS = 100  # blocks of either side in which a regular pulse repeats
_LEAST_OF_LEVEL = 0.03  # of the root mean square, -30 dB; a bass's own attacks and ends are smaller
_LEAST_STEP = 4 / 32768  # the steps of 16 bits are no clicks
_MERGED_BLOCKS = 5  # marks at most this far apart are one click


def count_clicks(samples: np.ndarray, rate: int) -> int:
    """Count clicks: spikes shorter than about 2 ms that stand alone.

    A linear predictor of order 16, fitted every 40 ms, predicts music from its past but not a click. A block of 1 ms
    holds a click where its largest prediction error is five times that of the surroundings: the third-highest block of
    the 20 ms before or of the 20 ms after, whichever is larger. After the onset of a snare or a hi-hat the blocks stay
    high. A spike with more than two like it within the 100 ms of either side is a regular pulse, as of a low sawtooth.

    Args:
        samples: float [channels, N], 1 for full scale. Clicks of several channels at one time count once.
        rate: in Hz.

    Source: Godsill and Rayner 1998, Digital Audio Restoration, chapter 5: thresholding of the prediction error.
    """
    level = float(np.sqrt(samples.var(axis=1, dtype=np.float64).mean()))
    least = max(_LEAST_OF_LEVEL * level, _LEAST_STEP)
    marks = [_mark_blocks(prediction_error(channel, rate), rate, least) for channel in samples]
    blocks = np.flatnonzero(np.any(marks, axis=0))
    return int(len(blocks) and 1 + (np.diff(blocks) > _MERGED_BLOCKS).sum())


def prediction_error(channel: np.ndarray, rate: int) -> np.ndarray:
    """Compute the error of a linear predictor that is fitted to each frame by the autocorrelation method.

    Args:
        channel: float [N].
        rate: in Hz.

    Returns:
        float32 [N]; about 0 for what the frame's spectrum explains. The first 16 samples are 0.
    """
    size = max(4 * _ORDER, round(_FRAME_SECONDS * rate))
    found = np.zeros(len(channel), np.float32)
    window = np.hanning(2 * size)  # half of it lies beside the frame, so that spectra change slowly
    padded = np.pad(channel.astype(np.float64), (size // 2, 2 * size))
    starts = np.arange(0, len(channel), size)
    for at in range(0, len(starts), _FRAMES_AT_ONCE):
        chosen = starts[at : at + _FRAMES_AT_ONCE]
        frames = np.stack([padded[start : start + 2 * size] for start in chosen]) * window
        weights = _fit_predictors(frames)
        for start, weight in zip(chosen, weights, strict=True):
            first = max(_ORDER, int(start))
            part = channel[first - _ORDER : start + size]
            if len(part) > _ORDER:
                found[first : start + size] = np.convolve(part, weight, mode="valid")
    return found


def _fit_predictors(frames: np.ndarray) -> np.ndarray:
    """Fit prediction-error filters [n, 17] to windowed frames [n, N]."""
    size = frames.shape[1]
    products = [np.einsum("ij,ij->i", frames[:, : size - lag], frames[:, lag:]) for lag in range(_ORDER + 1)]
    lags = np.stack(products, axis=1)
    lags[:, 0] = lags[:, 0] * (1 + 1e-9) + 1e-12  # keeps the equations of silence and of pure tones solvable
    index = np.arange(_ORDER)
    matrices = lags[:, np.abs(index[:, None] - index)]
    weights = np.linalg.solve(matrices, lags[:, 1:, None])[:, :, 0]
    return np.concatenate([np.ones((len(frames), 1)), -weights], axis=1)


def _mark_blocks(errors: np.ndarray, rate: int, least: float) -> np.ndarray:
    """Mark the blocks of 1 ms that hold a click, bool [N / block], from prediction errors [N]."""
    width = max(4, round(_BLOCK_SECONDS * rate))
    peaks = np.abs(errors[: len(errors) // width * width]).reshape(-1, width).max(axis=1)
    marks: np.ndarray = peaks > np.maximum(least, _FACTOR * _typical_peaks(peaks))
    chosen = np.flatnonzero(marks)
    if not len(chosen):
        return marks
    offsets = np.arange(_GAP_BLOCKS, _GAP_BLOCKS + _NEAR_BLOCKS)
    around = np.maximum(*(_third_highest(peaks, chosen[:, None] + side) for side in (-offsets, offsets)))
    clicks = chosen[peaks[chosen] > _FACTOR * around]
    marks[:] = False
    marks[[block for block in clicks if not _is_pulse(clicks, peaks, block)]] = True
    return marks


def _typical_peaks(peaks: np.ndarray) -> np.ndarray:
    """Return the median of the blocks near each block, to choose the few that are worth comparing."""
    padded = np.pad(peaks, (0, -len(peaks) % _NEAR_BLOCKS), mode="edge") if len(peaks) else peaks
    found: np.ndarray = np.repeat(np.median(padded.reshape(-1, _NEAR_BLOCKS), axis=1), _NEAR_BLOCKS)[: len(peaks)]
    return found


def _third_highest(peaks: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Take the third-highest of the blocks at each row of indices; infinity where the recording has too few there."""
    inside = (index >= 0) & (index < len(peaks))
    values = np.where(inside, peaks[np.clip(index, 0, len(peaks) - 1)], 0.0)
    highest = np.partition(values, -1 - _TOLERATED, axis=1)[:, -1 - _TOLERATED]
    # Within 10 ms of an end nothing tells a click from the cut itself.
    found: np.ndarray = np.where(inside.sum(axis=1) < _NEAR_BLOCKS // 2, np.inf, highest)
    return found


def _is_pulse(clicks: np.ndarray, peaks: np.ndarray, block: int) -> bool:
    """Tell whether more than two other spikes of about the same height lie close to one on either side."""
    alike = clicks[peaks[clicks] > peaks[block] / 2]
    far = np.abs(alike - block)
    near = alike[(far > _GAP_BLOCKS) & (far <= _PULSE_BLOCKS)]
    return bool(max((near < block).sum(), (near > block).sum()) > _TOLERATED)
