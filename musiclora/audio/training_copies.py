"""Copy meter of an audio training run: latents of samples against the latents of the training recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musiclora.audio.piece_copies import frames_of_latents
from musiclora.audio.windows import Recording
from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.features import latent_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter
from musiclora.evaluation.audio_copies.samples import AudioSampleCopies, summarise_samples

SAMPLE_SECONDS = 10.0  # of the samples that are written and measured while training


@dataclass(frozen=True)
class TrainingAudioCopies:
    """Samples of a run against its recordings.

    Attributes:
        train, held_out: recordings, split.
        frames: length of the samples.
        rate: latent frames a second.
    """

    train: Sequence[Recording]
    held_out: Sequence[Recording]
    frames: int
    rate: float

    def measure_samples(self, make: Callable[[int], Sequence[np.ndarray]]) -> AudioSampleCopies | None:
        """Sample pieces and measure them; None where they or all recordings are too short.

        Args:
            make: samples pieces of a number of frames, each float32 [T, C].
        """
        if self._meter is None:
            return None
        results = [self._meter.measure(latent_frames("", latents, self.rate)) for latents in make(self.frames)]
        return summarise_samples(results, self._meter)

    @cached_property
    def _meter(self) -> AudioCopyMeter | None:
        train, held_out = (frames_of_latents(part, self.rate) for part in (self.train, self.held_out))
        try:
            latent_frames("", np.zeros((self.frames, 1)), self.rate)
            return AudioCopyMeter(train, held_out, self.frames / self.rate)
        except DataError:
            return None
