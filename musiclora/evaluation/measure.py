"""Folders of recordings: listing, reading and measuring their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from musiclora.children.sound import DecodedFile, DecodeError
from musiclora.convert.errors import printable
from musiclora.convert.files.outputs import check_writable
from musiclora.errors import ConfigError, DataError, join_problems
from musiclora.evaluation.artefacts.compare import MeasuredFile
from musiclora.evaluation.artefacts.measures import measure_artefacts
from musiclora.evaluation.audio_features import LONGEST_SECONDS, Recordings, measure_features
from musiclora.formats import BASE_MARK, FOREIGN_ADVICE, FOREIGN_SUFFIXES, RECORDING_SUFFIXES, read_manifest
from musiclora.formats import MUSIC_SUFFIXES as SYMBOLIC_SUFFIXES
from musiclora.progress import OnProgress

_BLOCK_SAMPLES = 1 << 15  # read at one time


def need_audio() -> None:
    """Raise ConfigError where the packages that read and analyse sound are not installed."""
    if missing := [name for name in ("librosa", "soundfile", "soxr") if find_spec(name) is None]:
        raise ConfigError(f"comparing recordings needs {', '.join(missing)}; try: pip install 'musiclora[audio]'")


def check_picture(path: Path) -> None:
    """Raise ConfigError where no PNG file can be written at the path of `--picture`."""
    if path.is_dir() or path.suffix.lower() != ".png":
        raise ConfigError(f"--picture {path}: a PNG file is written; give a file name that ends in .png")
    check_writable(path, "--picture")


def split_base_versions(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split the output of `generate --compare` into the adapted pieces and the base's versions."""
    known = {path.with_suffix("") for path in files}
    bases = {
        path
        for path in files
        if path.stem.endswith(BASE_MARK) and path.with_name(path.stem.removesuffix(BASE_MARK)) in known
    }
    return [path for path in files if path not in bases], [path for path in files if path in bases]


def are_same_pieces(generated: Sequence[str], bases: Sequence[str]) -> bool:
    """Compare two lists of file names one by one, without endings and the mark of the base's versions."""
    first, second = ([Path(name).stem.removesuffix(BASE_MARK) for name in names] for names in (generated, bases))
    return first == second


def cut_sources(folder: Path) -> dict[Path, str]:
    """Find the recordings that the segments below a folder were cut from, by the segments' paths.

    Raises:
        DataError: a damaged manifest of `cut`.
    """
    found = read_manifest(folder) if folder.is_dir() else {}
    return {folder / name: str(item["source"]) for name, item in found.items()}


def measure_recordings(
    files: Sequence[Path], on_progress: OnProgress | None = None, sources: Mapping[Path, str] | None = None
) -> Recordings:
    """Measure recordings, the first 300 s of long ones; those that cannot be measured are left out with a line.

    Args:
        files: as `recording_files` lists them.
        on_progress: called with (done, total) files.
        sources: the recordings that segments were cut from; see `cut_sources`.

    Raises:
        DataError: none can be measured.
    """
    names: list[str] = []
    whole: list[str] = []
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    left_out: list[str] = []
    long: list[str] = []
    artefacts: list[MeasuredFile] = []
    for done, path in enumerate(files, 1):
        source = (sources or {}).get(path, str(path))
        try:
            found = decode_excerpt(path)
            # First, since a silent recording has no features.
            measured = measure_artefacts(found.samples, found.rate, found.kind)
            artefacts.append(MeasuredFile(path.name, source, measured))
            long += [path.name] if found.longer else []
            rows.append(measure_features(found.samples, found.rate))
        except DataError as error:
            left_out.append(f"left out {prefix_path(path, error)}")
        else:
            names.append(path.name)
            whole.append(source)
        if on_progress:
            on_progress(done, len(files))
    if not rows:
        raise DataError(f"no recording can be measured: {join_problems(left_out)}")
    if long:
        left_out.append(f"only the first {LONGEST_SECONDS:.0f} s were measured of {', '.join(long)}")
    vectors, spectra = (np.stack(part) for part in zip(*rows, strict=True))
    return Recordings(tuple(names), vectors, spectra, tuple(left_out), tuple(whole), tuple(artefacts))


def prefix_path(path: Path, error: DataError) -> str:
    """Prefix an error with the file's name, unless it contains it."""
    text = str(error)
    return text if printable(str(path)) in text else f"{path}: {text}"


def recording_files(folder: Path, option: str = "") -> list[Path]:
    """List the recordings of a folder and its subfolders by their endings, in a stable order, without hidden ones.

    Sound in formats that are not read is listed too, so that it is named.

    Args:
        folder: searched with its subfolders.
        option: option that named it, for messages.

    Raises:
        DataError: no such folder, or no recordings in it.
    """
    where = f"{option} {folder}" if option else str(folder)
    if not folder.is_dir():
        raise DataError(f"{where}: {'a file; give the folder it is in' if folder.exists() else 'no such folder'}")
    every = sorted(p for p in folder.rglob("*") if not p.is_dir() and not p.name.startswith("."))
    found = [p for p in every if p.suffix.lower() in RECORDING_SUFFIXES]
    foreign = [p for p in every if p.suffix.lower() in FOREIGN_SUFFIXES]
    if found:
        return sorted([*found, *foreign])
    if foreign:
        raise DataError(f"{where}: no recordings in this folder; {foreign[0].name} {FOREIGN_ADVICE}")
    if any(p.suffix.lower() in SYMBOLIC_SUFFIXES for p in every):
        raise DataError(
            f"{where}: holds notes and no recordings; these distances compare sound (see: musiclora render)"
        )
    raise DataError(f"{where}: no recordings in this folder")


@dataclass(frozen=True)
class Excerpt:
    """Sound of a recording's first 300 s.

    Attributes:
        samples: float32 [channels, N], 1 for full scale.
        rate: in Hz.
        longer: the recording is longer.
        kind: encoding of the file, such as PCM_16.
    """

    samples: np.ndarray
    rate: int
    longer: bool
    kind: str


def read_excerpt(path: Path) -> tuple[np.ndarray, int, bool]:
    """Read at most 300 s of a recording; see `decode_excerpt`.

    Returns:
        Samples float32 [channels, N], the rate in Hz, and True where the recording is longer.
    """
    found = decode_excerpt(path)
    return found.samples, found.rate, found.longer


def decode_excerpt(path: Path) -> Excerpt:
    """Read at most 300 s of a recording; a damaged one is used up to the break, as by every other command.

    Raises:
        DataError: not a recording that libsndfile can read.
    """
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise DataError(f"{path}: {FOREIGN_ADVICE}")
    if not path.is_file():
        raise DataError(f"{path}: {'is not a regular file' if path.exists() else 'is a link that leads nowhere'}")
    blocks: list[np.ndarray] = []
    try:
        with DecodedFile(path) as file:
            most, rate, kind = int(LONGEST_SECONDS * file.rate), file.rate, file.kind
            longer = file.frames > most
            while most and len(block := file.read(min(most, _BLOCK_SAMPLES))):
                blocks.append(block)
                most -= len(block)
    except DecodeError as error:
        if not blocks:
            raise DataError(f"{path}: cannot be read as sound ({error})") from None
        longer = False
    audio = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
    return Excerpt(np.ascontiguousarray(audio.T), rate, longer, kind)
