"""Copies in folders of recordings: `evaluate --generated-dir --train-dir`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import printable
from musiclora.errors import DataError, join_problems
from musiclora.evaluation.audio_copies.features import Frames, frame_features
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
class AudioFolderCopies:
    """Copy figures of the recordings of a folder.

    Attributes:
        results: name and result of each recording.
        thresholds: highest similarity of a window that is no copy, for each measure.
        notes: remarks for the user.
    """

    results: Sequence[tuple[str, AudioCopyResult]]
    thresholds: Mapping[str, float]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Build the keys `copies` and `threshold`."""
        copies = [{"file": name, **result.as_json()} for name, result in self.results]
        return {"copies": copies, "threshold": {name: round(value, 4) for name, value in self.thresholds.items()}}

    def lines(self) -> list[str]:
        """Format each recording's figures, the largest share first, and their summary."""
        order = sorted(self.results, key=lambda row: (-row[1].share, -row[1].similarity))
        copied = sum(result.copied for _, result in self.results)
        limits = ", ".join(f"{name} {value:.2f}" for name, value in self.thresholds.items())
        summary = (
            f"{copied} of {len(order)} recordings copy a training recording; copied above a similarity of {limits}"
        )
        return [*(f"{printable(name)}: {result.line()}" for name, result in order), summary]


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
    files = {"--generated-dir": made, "--train-dir": recording_files(train_dir, "--train-dir")}
    if reference_dir is not None:
        files["--reference-dir"] = recording_files(reference_dir, "--reference-dir")
    folders = [folder for folder in (generated_dir, train_dir, reference_dir) if folder]
    sources = {path: name for folder in folders for path, name in cut_sources(folder).items()}
    notes: list[str] = [f"{len(bases)} files by the base alone are not measured for copies"] if bases else []
    found = {option: _read_frames(option, paths, sources, notes, reporter) for option, paths in files.items()}
    with reporter.task("comparing") as update:
        meter = AudioCopyMeter(found["--train-dir"], found.get("--reference-dir", ()))
        results = []
        for done, piece in enumerate(found["--generated-dir"], 1):
            results.append((piece.name, meter.measure(piece)))
            update(done, len(found["--generated-dir"]))
    return AudioFolderCopies(results, meter.thresholds, (*notes, *meter.notes))


def _read_frames(
    option: str, paths: Sequence[Path], sources: Mapping[Path, str], notes: list[str], reporter: Reporter
) -> list[Frames]:
    """Read the frames of recordings; add a note for each one that is left out or cut."""
    frames, left_out = [], []
    with reporter.task(f"listening to {option}") as update:
        for done, path in enumerate(paths, 1):
            try:
                audio, rate, cut = read_excerpt(path)
                frames.append(frame_features(path.name, audio, rate, sources.get(path, str(path))))
            except DataError as error:
                left_out.append(prefix_path(path, error))
            else:
                if cut:
                    notes.append(f"{option}: only the first {LONGEST_SECONDS:.0f} s were compared of {path.name}")
            update(done, len(paths))
    if not frames:
        raise DataError(f"{option}: no recording can be measured: {join_problems(left_out)}")
    if left_out:
        notes.append(f"{option}: left out {len(left_out)} of {len(paths)} recordings: {join_problems(left_out)}")
    return frames
