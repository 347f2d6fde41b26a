"""Comparison of two folders of recordings: `musiclora evaluate --generated-dir --reference-dir`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files.outputs import check_outputs
from musiclora.errors import DataError, join_problems
from musiclora.evaluation.artefacts.compare import ArtefactComparison, compare_artefacts
from musiclora.evaluation.audio_distances import (
    Distances,
    Spread,
    compare_recordings,
    distance_reductions,
    framewise_distance,
    rank_recordings,
)
from musiclora.evaluation.audio_features import Recordings
from musiclora.evaluation.distance_table import TABLE_HEAD, distance_row, reduction_line
from musiclora.evaluation.kernel_distance import KernelDistance, compare_kernels
from musiclora.evaluation.measure import (
    are_same_pieces,
    check_picture,
    cut_sources,
    measure_recordings,
    need_audio,
    prefix_path,
    read_excerpt,
    recording_files,
    split_base_versions,
)
from musiclora.evaluation.scores import count_pieces
from musiclora.evaluation.spectra_plot import spectra_picture
from musiclora.formats import BASE_MARK
from musiclora.progress import OnProgress, Reporter


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two folders of recordings.

    Attributes:
        distances: both distances, with intervals and scale.
        kernel: squared MMD of the features, with interval and scale.
        framewise: mean squared error of log-mel spectra frame by frame over files of the same name, dB squared; None
            for folders that are not paired.
        reduction: shares by which both distances are smaller than a baseline's; None without one.
        ranking: name, Audio Feature Distance and Spectral Distance of each generated recording, the nearest first.
        notes: remarks for the user: files left out, features without a scale.
        artefacts: of the recordings, a part of the result of its own.
    """

    distances: Distances
    kernel: KernelDistance
    framewise: float | None
    reduction: tuple[Spread, Spread] | None
    ranking: list[tuple[str, float, float]]
    notes: tuple[str, ...]
    artefacts: ArtefactComparison | None = None

    def as_json(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        d = self.distances
        found: dict[str, Any] = {
            "afd": d.afd.value,
            "spectral_distance": d.spectral.value,
            "afd_interval": [d.afd.low, d.afd.high],
            "spectral_distance_interval": [d.spectral.low, d.spectral.high],
            **self.kernel.as_json(),
            "real_vs_real": {
                "afd": d.real_afd.value,
                "spectral_distance": d.real_spectral.value,
                "afd_interval": [d.real_afd.low, d.real_afd.high],
                "spectral_distance_interval": [d.real_spectral.low, d.real_spectral.high],
                **self.kernel.real_json(),
            },
            "generated": d.generated,
            "reference": d.reference,
            "generated_recordings": d.generated_recordings,
            "reference_recordings": d.reference_recordings,
            "files": [{"name": name, "afd": afd, "spectral_distance": sd} for name, afd, sd in self.ranking],
            "notes": list(self.notes),
        }
        if self.framewise is not None:
            found["framewise"] = self.framewise
        for key, part in zip(("afd", "spectral_distance"), self.reduction or (), strict=False):
            found[f"{key}_reduction"] = part.value
            found[f"{key}_reduction_interval"] = [part.low, part.high]
        return found

    def lines(self) -> list[str]:
        """Format the result as lines."""
        d = self.distances
        rows = [
            f"{_count_files(d.generated, d.generated_recordings, 'generated')} against "
            f"{_count_files(d.reference, d.reference_recordings, 'reference')}; smaller is nearer",
            TABLE_HEAD,
            distance_row("Audio Feature Distance", d.afd, d.real_afd, ".3g"),
            distance_row("Spectral Distance, dB²", d.spectral, d.real_spectral, ".2f"),
        ]
        rows += self.kernel.lines()
        if self.framewise is not None:
            rows.append(f"{'framewise, dB²':24}{self.framewise:10.2f}")
        for name, part in zip(("Audio Feature Distance", "Spectral Distance"), self.reduction or (), strict=False):
            rows.append(reduction_line(name, part))
        rows += self.kernel.reduction_lines()
        return rows

    def ranked(self) -> Ranking:
        """Return the distances of every generated recording, the nearest first."""
        return Ranking(self.ranking)


@dataclass(frozen=True)
class Ranking:
    """Name, Audio Feature Distance and Spectral Distance of generated recordings, the nearest first."""

    rows: list[tuple[str, float, float]]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return no keys: `Comparison` has them as `files`."""
        return {}

    def lines(self) -> list[str]:
        """Format as a table."""
        head = f"{'nearest first':40}{'Audio Feature Distance':>24}{'Spectral Distance, dB²':>24}"
        return [head, *(f"{name:40}{afd:24.3g}{spectral:24.2f}" for name, afd, spectral in self.rows)]


def _count_files(files: int, recordings: int, kind: str) -> str:
    """Format '30 reference recordings', or '30 reference files of 5 recordings' for segments."""
    if files == recordings:
        return f"{files} {kind} recordings"
    return f"{files} {kind} files of {count_pieces(recordings, 'recordings')}"


def compare_folders(
    generated_dir: Path,
    reference_dir: Path,
    *,
    baseline_dir: Path | None = None,
    paired: bool = False,
    picture: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Comparison:
    """Compare two folders of recordings; definitions in docs/evaluation.md.

    Args:
        generated_dir, reference_dir: searched with their subfolders.
        baseline_dir: recordings to compare the distances with, such as the base model's. None takes the base's versions
            that `generate --compare` wrote, if there are any.
        paired: also compare files of the same name frame by frame.
        picture: PNG file for the mean spectra of both folders.
        overwrite: replace a picture that exists.
        reporter: receives the progress.

    Raises:
        ConfigError: the audio packages are not installed, or the picture is a folder, a recording,
            or exists.
        DataError: a folder without recordings, nothing that can be measured, too few references, files without a
            partner.
    """
    out = reporter or Reporter()
    need_audio()
    if picture:
        check_picture(picture)
    made, bases = split_base_versions(recording_files(generated_dir, "--generated-dir"))
    files = {"generated": made, "reference": recording_files(reference_dir, "--reference-dir")}
    if baseline_dir or bases:
        files["baseline"] = recording_files(baseline_dir, "--baseline-dir") if baseline_dir else bases
    if picture:
        recordings = {str(path): path for paths in files.values() for path in paths}
        check_outputs("--picture", [picture], recordings, overwrite=overwrite)
    folders = dict.fromkeys(folder for folder in (generated_dir, reference_dir, baseline_dir) if folder)
    sources = {path: name for folder in folders for path, name in cut_sources(folder).items()}
    sets: dict[str, Recordings] = {}
    for what, paths in files.items():
        with out.task(f"listening to the {what} recordings") as update:
            sets[what] = measure_recordings(paths, update, sources)
    generated, reference, baseline = sets["generated"], sets["reference"], sets.get("baseline")
    found = compare_recordings(generated, reference)
    matched = baseline is not None and are_same_pieces(generated.names, baseline.names)
    kernel = compare_kernels(generated, reference, baseline=baseline, matched=matched)
    reduction = distance_reductions(baseline, generated, reference, matched=matched) if baseline else None
    framewise = None
    if paired:
        with out.task("comparing frame by frame") as update:
            framewise = _mean_framewise({generated_dir: made, reference_dir: files["reference"]}, update)
    if picture:
        spectra_picture(picture, generated.spectra, reference.spectra, overwrite=overwrite)
    notes = [line for recordings in sets.values() for line in recordings.left_out]
    if bases:
        taken = "left out" if baseline_dir else "taken as the baseline"
        notes.append(f"{len(bases)} files whose names end in {BASE_MARK} are by the base alone: {taken}")
    if found.reference_recordings == 1:
        notes.append(
            "all reference files are of one recording: intervals and real against real are over its segments, and say "
            "nothing about other recordings"
        )
    notes += kernel.notes
    if found.constant:
        notes.append(
            "left out of the distance, since all reference recordings share them: "
            f"{join_problems(list(found.constant))}"
        )
    artefacts = compare_artefacts({kind: recordings.artefacts for kind, recordings in sets.items()})
    ranking = rank_recordings(generated, reference)
    return Comparison(found, kernel, framewise, reduction, ranking, tuple(notes), artefacts)


def _mean_framewise(files: Mapping[Path, Sequence[Path]], update: OnProgress) -> float:
    """Compute the mean framewise distance over files of the same name, with any ending."""
    generated, reference = (
        {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths} for folder, paths in files.items()
    )
    if lonely := sorted(set(generated) ^ set(reference)):
        raise DataError(
            f"--paired needs files of the same names in both folders; without a partner: {join_problems(lonely)}"
        )
    values = []
    for done, (name, path) in enumerate(sorted(generated.items()), 1):
        (audio, rate, _), (original, original_rate, _) = read_excerpt(path), read_excerpt(reference[name])
        try:
            values.append(framewise_distance(audio, rate, original, original_rate))
        except DataError as error:
            raise DataError(prefix_path(path, error)) from None
        update(done, len(generated))
    return float(np.mean(values))
