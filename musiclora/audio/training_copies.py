"""Copy meter of an audio training run: latents of samples against the latents of the training recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions
from musiclora.audio.flow_sampling import FlowRequest, sample_latents
from musiclora.audio.piece_copies import frames_of_latents
from musiclora.audio.windows import Recording
from musiclora.backends.base import FlowModel
from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.features import latent_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter
from musiclora.evaluation.audio_copies.samples import AudioSampleCopies, summarise_samples

FRAME_RATE = 44100 / 2048  # latent frames a second of the codec that DiffRhythm is trained on
_SAMPLE_SECONDS, _SAMPLE_STEPS = 10.0, 16  # as the samples that are written while training


@dataclass(frozen=True)
class TrainingAudioCopies:
    """Samples of a run against its recordings.

    Attributes:
        train, held_out: recordings, split.
        frames: length of the samples.
    """

    train: Sequence[Recording]
    held_out: Sequence[Recording]
    frames: int

    def measure_samples(
        self, model: FlowModel, count: int, seed: int, style: np.ndarray | None
    ) -> AudioSampleCopies | None:
        """Sample pieces and measure them; None where they or all recordings are too short.

        Args:
            model: the model as it is now.
            count: number of samples.
            seed: of the samples.
            style: style vector of the samples.
        """
        if self._meter is None:
            return None
        request = FlowRequest(seed=seed, count=count, steps=_SAMPLE_STEPS, guidance=0.0)
        made = sample_latents(model, request, self.frames, DiffRhythmConditions(style))
        results = [self._meter.measure(latent_frames("", latents, FRAME_RATE)) for latents in made]
        return summarise_samples(results, self._meter)

    @cached_property
    def _meter(self) -> AudioCopyMeter | None:
        train, held_out = (frames_of_latents(part, FRAME_RATE) for part in (self.train, self.held_out))
        try:
            latent_frames("", np.zeros((self.frames, 1)), FRAME_RATE)
            return AudioCopyMeter(train, held_out, self.frames / FRAME_RATE)
        except DataError:
            return None


def training_copies(train: Sequence[Recording], held_out: Sequence[Recording], longest: int) -> TrainingAudioCopies:
    """Prepare the measurement; nothing is compared yet.

    Args:
        train, held_out: recordings, split.
        longest: most frames of the model.
    """
    return TrainingAudioCopies(train, held_out, min(longest, int(_SAMPLE_SECONDS * FRAME_RATE)))
