"""The job behind `musiclora evaluate --generated-dir --reference-dir`: two folders of recordings compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio_distances import Distances, Spread, distances, framewise_distance, reductions
from musiclora.audio_features import LONGEST, Recordings, analyse
from musiclora.data.reading import SUFFIXES as SYMBOLIC_SUFFIXES
from musiclora.errors import DataError, listed
from musiclora.results import Reporter
from musiclora.spectra import spectra_picture


@dataclass(frozen=True)
class Comparison:
    """What two folders of recordings were found to be.

    Attributes:
        distances: both distances, with intervals and scale.
        framewise: mean squared error of log-mel spectra frame by frame over files of the same name, dB squared; None
            where the folders are not paired.
        reduction: by what share both distances are smaller than a baseline's; None without one.
        notes: what the user should know: files left out, features without a scale.
    """

    distances: Distances
    framewise: float | None
    reduction: tuple[Spread, Spread] | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        d = self.distances
        found: dict[str, Any] = {
            "afd": d.afd.value,
            "spectral_distance": d.spectral.value,
            "afd_interval": [d.afd.low, d.afd.high],
            "spectral_distance_interval": [d.spectral.low, d.spectral.high],
            "real_vs_real": {
                "afd": d.real_afd.value,
                "spectral_distance": d.real_spectral.value,
                "afd_interval": [d.real_afd.low, d.real_afd.high],
                "spectral_distance_interval": [d.real_spectral.low, d.real_spectral.high],
            },
            "generated": d.generated,
            "reference": d.reference,
            "notes": list(self.notes),
        }
        if self.framewise is not None:
            found["framewise"] = self.framewise
        for key, part in zip(("afd", "spectral_distance"), self.reduction or (), strict=False):
            found[f"{key}_reduction"] = part.value
            found[f"{key}_reduction_interval"] = [part.low, part.high]
        return found

    def lines(self) -> list[str]:
        """The result in words."""
        d = self.distances
        rows = [
            f"{d.generated} generated recordings against {d.reference} reference recordings; smaller is nearer",
            f"{'':24}{'distance':>10}{'95 % interval':>22}{'real against real':>20}{'range':>22}",
            _row("Audio Feature Distance", d.afd, d.real_afd, ".3g"),
            _row("Spectral Distance, dB²", d.spectral, d.real_spectral, ".2f"),
        ]
        if self.framewise is not None:
            rows.append(f"{'framewise, dB²':24}{self.framewise:10.2f}")
        for name, part in zip(("Audio Feature Distance", "Spectral Distance"), self.reduction or (), strict=False):
            interval = f"95 % interval {part.low:.1%} to {part.high:.1%}"
            rows.append(f"{name}: {part.value:.1%} smaller than the baseline's ({interval})")
        return rows


def _row(name: str, found: Spread, real: Spread, form: str) -> str:
    intervals = [f"{part.low:{form}} to {part.high:{form}}" for part in (found, real)]
    return f"{name:24}{found.value:>10{form}}{intervals[0]:>22}{real.value:>20{form}}{intervals[1]:>22}"


def compare_folders(
    generated_dir: Path, reference_dir: Path, *, baseline_dir: Path | None = None, paired: bool = False,
    picture: Path | None = None, reporter: Reporter | None = None,
) -> Comparison:  # fmt: skip
    """Compare two folders of recordings; definitions in docs/audio-evaluation.md.

    Args:
        generated_dir, reference_dir: searched with their subfolders.
        baseline_dir: recordings that the generated ones should be nearer than, such as the base model's.
        paired: also compare files of the same name frame by frame.
        picture: PNG file to draw the mean spectra of both folders into.
        reporter: told about progress.

    Raises:
        DataError: a folder without recordings, nothing that can be measured, too few references, files without a
            partner.
    """
    out = reporter or Reporter()
    folders = {"generated": generated_dir, "reference": reference_dir, "baseline": baseline_dir}
    sets: dict[str, Recordings] = {}
    for what, folder in folders.items():
        if folder:
            with out.task(f"listening to the {what} recordings") as update:
                sets[what] = measure_folder(folder, update)
    generated, reference, baseline = sets["generated"], sets["reference"], sets.get("baseline")
    found = distances(generated, reference)
    reduction = reductions(baseline, generated, reference) if baseline else None
    framewise = None
    if paired:
        with out.task("comparing frame by frame") as update:
            framewise = _framewise(generated_dir, reference_dir, update)
    if picture:
        spectra_picture(picture, generated.spectra, reference.spectra)
    notes = [line for recordings in sets.values() for line in recordings.left_out]
    if found.constant:
        notes.append(
            f"left out of the distance, since all reference recordings share them: {listed(list(found.constant))}"
        )
    return Comparison(found, framewise, reduction, tuple(notes))


def measure_folder(folder: Path, on_progress: Callable[[int, int], None] | None = None) -> Recordings:
    """Measure the recordings of a folder; what cannot be measured is left out and named.

    Raises:
        DataError: no recordings, or none that can be measured.
    """
    files = _files(folder)
    names: list[str] = []
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    left_out: list[str] = []
    long: list[str] = []
    for done, path in enumerate(files, 1):
        try:
            audio, rate, cut = _read(path)
            rows.append(analyse(audio, rate))
        except DataError as error:
            left_out.append(f"left out {_said(path, error)}")
        else:
            names.append(path.relative_to(folder).as_posix())
            long += [path.name] if cut else []
        if on_progress:
            on_progress(done, len(files))
    if not rows:
        raise DataError(f"{folder}: no recording can be measured: {listed(left_out)}")
    if long:
        left_out.append(f"{folder}: only the first {LONGEST:.0f} s were measured of {', '.join(long)}")
    vectors, spectra = (np.stack(part) for part in zip(*rows, strict=True))
    return Recordings(tuple(names), vectors, spectra, tuple(left_out))


def _said(path: Path, error: DataError) -> str:
    """An error with the file's name in front, if it is not there already."""
    text = str(error)
    return text if str(path) in text else f"{path}: {text}"


def _framewise(generated_dir: Path, reference_dir: Path, update: Callable[[int, int], None]) -> float:
    """Mean of the framewise distance over files of the same name, whatever their ending."""
    generated, reference = ({p.relative_to(d).with_suffix("").as_posix(): p for p in _files(d)}
                            for d in (generated_dir, reference_dir))  # fmt: skip
    if lonely := sorted(set(generated) ^ set(reference)):
        raise DataError(f"--paired needs files of the same names in both folders; without a partner: {listed(lonely)}")
    values = []
    for done, (name, path) in enumerate(sorted(generated.items()), 1):
        (audio, rate, _), (original, original_rate, _) = _read(path), _read(reference[name])
        try:
            values.append(framewise_distance(audio, rate, original, original_rate))
        except DataError as error:
            raise DataError(_said(path, error)) from None
        update(done, len(generated))
    return float(np.mean(values))


def _files(folder: Path) -> list[Path]:
    import soundfile

    endings = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".oga", ".opus"}
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    every = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if found := [p for p in every if p.suffix.lower() in endings]:
        return found
    if any(p.suffix.lower() in SYMBOLIC_SUFFIXES for p in every):
        raise DataError(
            f"{folder}: holds notes and no recordings; these distances compare sound (see: musiclora render)"
        )
    raise DataError(f"{folder}: no recordings in this folder")


def _read(path: Path) -> tuple[np.ndarray, int, bool]:
    """Samples [channels, N] of at most the longest time, the rate in Hz, and whether there was more."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            most = int(LONGEST * file.samplerate)
            audio = file.read(most, dtype="float32", always_2d=True).T
            return audio, file.samplerate, file.frames > most
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as sound ({error})") from None
