"""Copies in folders of recordings: `evaluate --generated-dir --train-dir`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.audio.latents.store import is_latents
from musiclora.convert.errors import printable
from musiclora.errors import DataError, join_problems, list_names
from musiclora.evaluation.audio_copies.features import Frames, sound_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter, AudioCopyResult
from musiclora.evaluation.audio_features import LONGEST_SECONDS
from musiclora.evaluation.measure import (
    cut_sources,
    need_audio,
    prefix_path,
    read_excerpt,
    recording_files,
    split_base_versions,
)
from musiclora.progress import Reporter


@dataclass(frozen=True)
class FolderFrames:
    """Frames of a folder's recordings, and remarks for the user."""

    recordings: list[Frames]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AudioFolderCopies:
    """Copy figures of the recordings of a folder.

    Attributes:
        results: name and result of each recording.
        threshold: highest similarity of a piece that is no copy.
        notes: remarks for the user.
    """

    results: Sequence[tuple[str, AudioCopyResult]]
    threshold: float
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Build the keys `copies` and `threshold`."""
        copies = [{"file": name, **result.as_json()} for name, result in self.results]
        return {"copies": copies, "threshold": round(self.threshold, 2)}

    def lines(self) -> list[str]:
        """Format each recording's figures, the most similar first, and their summary."""
        return [*(f"{printable(name)}: {result.line()}" for name, result in self.ranked()), self.summary()]

    def ranked(self) -> list[tuple[str, AudioCopyResult]]:
        """List names and results, the most similar first."""
        return sorted(self.results, key=lambda row: -row[1].similarity)

    def summary(self) -> str:
        """Count the recordings that copy."""
        copied = sum(result.copied for _, result in self.results)
        return f"{copied} of {len(self.results)} recordings copy a training recording"


def measure_audio_copies(
    generated_dir: Path, train_dir: Path, reference_dir: Path | None, *, reporter: Reporter
) -> AudioFolderCopies:
    """Measure generated recordings against the training recordings.

    The scale are the recordings of `reference_dir`, or the training recordings among each other.

    Raises:
        ConfigError: the audio packages are not installed.
        DataError: a folder holds no recording that can be measured.
    """
    need_audio()
    made, bases = split_base_versions(recording_files(generated_dir, "--generated-dir"))
    notes = [f"{len(bases)} files by the base alone are not measured for copies"] if bases else []
    train = frames_of_folder(train_dir, "--train-dir", reporter)
    held_out = frames_of_folder(reference_dir, "--reference-dir", reporter) if reference_dir else FolderFrames([])
    pieces = frames_of_folder(generated_dir, "--generated-dir", reporter, made)
    with reporter.task("comparing") as update:
        longest = max(piece.seconds for piece in pieces.recordings)
        meter = AudioCopyMeter(train.recordings, held_out.recordings, longest)
        results = []
        for done, piece in enumerate(pieces.recordings, 1):
            results.append((piece.name, meter.measure(piece)))
            update(done, len(pieces.recordings))
    every = (*notes, *pieces.notes, *train.notes, *held_out.notes, *meter.notes)
    return AudioFolderCopies(results, meter.threshold, every)


def frames_of_folder(
    folder: Path, option: str, reporter: Reporter, files: Sequence[Path] | None = None
) -> FolderFrames:
    """Read the frames of a folder's recordings, the first 300 s of long ones.

    Args:
        folder: searched with its subfolders.
        option: option that named it, for messages.
        reporter: shows progress.
        files: those of the folder to read; None reads all.

    Raises:
        DataError: no such folder, or no recording that can be measured.
    """
    if is_latents(folder):
        raise DataError(f"{option} {folder}: holds latents, and sound is compared here; give the recordings themselves")
    paths = recording_files(folder, option) if files is None else files
    sources: Mapping[Path, str] = cut_sources(folder)
    frames, left_out, cut_short = [], [], []
    with reporter.task(f"listening to {option}") as update:
        for done, path in enumerate(paths, 1):
            name = path.relative_to(folder).as_posix()
            try:
                audio, rate, cut = read_excerpt(path)
                frames.append(sound_frames(name, audio, rate, sources.get(path, str(path))))
            except DataError as error:
                left_out.append(prefix_path(path, error))
            else:
                cut_short += [name] if cut else []
            update(done, len(paths))
    if not frames:
        raise DataError(f"{option}: no recording can be measured: {join_problems(left_out)}")
    notes = []
    if cut_short:
        names = list_names(cut_short, 5)
        notes.append(f"{option}: only the first {LONGEST_SECONDS:.0f} s were compared of {names}")
    if left_out:
        notes.append(f"{option}: left out {len(left_out)} of {len(paths)} recordings: {join_problems(left_out)}")
    return FolderFrames(frames, tuple(notes))
