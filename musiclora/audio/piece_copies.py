"""Copy meter of generated pieces: `generate --train-dir` with recordings or with a latents folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from musiclora.audio.copying import frames_of_folder
from musiclora.audio.latents.load import load_recordings
from musiclora.audio.latents.store import is_latents
from musiclora.audio.model import OpenedFlow
from musiclora.audio.windows import Recording
from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.features import Frames, latent_frames, sound_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter, AudioCopyResult
from musiclora.evaluation.measure import need_audio
from musiclora.progress import Reporter


class PieceCopies:
    """Measures pieces against training recordings, by sound or by latents.

    Attributes:
        notes: remarks for the user.
    """

    def __init__(self, meter: AudioCopyMeter, uses_latents: bool, rate: float, notes: Iterable[str]) -> None:
        """Keep a meter.

        Args:
            meter: of the training recordings.
            uses_latents: True where these are latents.
            rate: latent frames a second.
            notes: remarks for the user.
        """
        self._meter, self._uses_latents, self._rate = meter, uses_latents, rate
        self.notes = (*notes, *meter.notes)

    def measure(
        self, audio: np.ndarray, sample_rate: int, latents: np.ndarray, new: np.ndarray | None
    ) -> AudioCopyResult | str:
        """Measure a piece.

        Args:
            audio: its sound, float32 [channels, N].
            sample_rate: in Hz.
            latents: the same piece, float32 [T, C].
            new: bool [T], False where a frame is of a given recording; None where all are new.

        Returns:
            Its copy figures, or the reason why it has none.
        """
        try:
            if self._uses_latents:
                piece = latent_frames("", latents, self._rate, new=new)
            else:
                piece = sound_frames("", audio, sample_rate, new=new)
        except DataError as error:
            return str(error)
        if not piece.has_new_span:
            return "nothing long enough to be compared is new in it"
        return self._meter.measure(piece)


def open_piece_copies(
    train_dir: Path, opened: OpenedFlow, vae: str | Path | None, frames: int, reporter: Reporter
) -> PieceCopies:
    """Read the training recordings and fit the scale of their similarity.

    Args:
        train_dir: recordings, or a latents folder of the model's codec.
        opened: the model.
        vae: option that names the codec.
        frames: latent frames of the pieces.
        reporter: shows progress.

    Raises:
        ConfigError: the audio packages are not installed.
        DataError: no such folder, or nothing in it that can be measured.
    """
    rate = opened.codec.sample_rate / opened.codec.hop
    uses_latents = is_latents(train_dir)
    if uses_latents:
        found = load_recordings(train_dir, opened.base, vae, opened.backend, train_dir, reporter)
        songs, notes = frames_of_latents(found.recordings, rate), [f"--train-dir: {note}" for note in found.notes]
        if not songs:
            raise DataError(f"--train-dir {train_dir}: no recording is long enough to be compared")
    else:
        need_audio()
        folder = frames_of_folder(train_dir, "--train-dir", reporter)
        songs, notes = folder.recordings, [*folder.notes]
    with reporter.task("comparing the training recordings"):
        meter = AudioCopyMeter(songs, piece_seconds=frames / rate)
    return PieceCopies(meter, uses_latents, rate, notes)


def frames_of_latents(recordings: Sequence[Recording], rate: float) -> list[Frames]:
    """Take the latents of recordings as frames, without those that are too short."""
    found = []
    for recording in recordings:
        try:
            found.append(latent_frames(recording.name, recording.latents, rate, recording.source))
        except DataError:
            continue
    return found
