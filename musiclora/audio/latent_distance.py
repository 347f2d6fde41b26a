"""Kernel distance between the latents of generated and of real recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.latents.encode import encode_recordings
from musiclora.audio.latents.store import interruption_notes, is_latents, read_latents
from musiclora.audio.model import codec_fingerprint
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.comparison import ComparisonRequest
from musiclora.evaluation.distance_table import TABLE_HEAD
from musiclora.evaluation.groups import group_related
from musiclora.evaluation.kernel_distance import KernelDistance, VectorSet, compare_vectors
from musiclora.evaluation.measure import are_same_pieces, split_base_versions
from musiclora.evaluation.scores import count_pieces
from musiclora.formats import expand_home
from musiclora.progress import Reporter

KEY, TITLE = "mmd_latents", "MMD² of latents"


@dataclass(frozen=True)
class LatentFile:
    """Summary of the latents of one file.

    Attributes:
        source: the recording that it was cut from, or its own name.
        checksum: of the sound file.
        vector: mean and standard deviation over time of each channel, float64 [2C].
        made_by: codec and kind of the latents, as the index records them.
    """

    source: str
    checksum: str
    vector: np.ndarray
    made_by: tuple[str, str]


@dataclass(frozen=True)
class LatentDistance:
    """Kernel distance of latents, as a part of `evaluate --generated-dir`.

    Attributes:
        distance: squared MMD of the files' vectors.
        generated, reference: numbers of files.
        alone: no distance of the sound itself stands beside it.
        notes: remarks for the user.
    """

    distance: KernelDistance
    generated: int
    reference: int
    alone: bool
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Build the keys `mmd_latents` and `mmd_latents_interval`, also in `real_vs_real`."""
        counts = {"generated": self.generated, "reference": self.reference} if self.alone else {}
        return {**self.distance.as_json(), "real_vs_real": self.distance.real_json(), **counts}

    def lines(self) -> list[str]:
        """Format the distance as a row of the table of distances."""
        made, real = (count_pieces(count, "files of latents") for count in (self.generated, self.reference))
        head = [f"{made} generated against {real} of the reference; smaller is nearer", TABLE_HEAD]
        return [*(head if self.alone else []), *self.distance.lines(), *self.distance.reduction_lines()]


def holds_latents(request: ComparisonRequest) -> bool:
    """Return True where a folder of the request holds latents, so that there is no sound to compare."""
    folders = (request.generated_dir, request.reference_dir, request.baseline_dir)
    return any(folder is not None and is_latents(folder) for folder in folders)


def compare_latents(request: ComparisonRequest, reference_dir: Path, reporter: Reporter) -> LatentDistance:
    """Compute the kernel distance of latents; recordings are encoded with the codec that the request names.

    Args:
        request: the folders, and the codec for those that hold recordings.
        reference_dir: the reference, which a request may lack.
        reporter: receives the progress.

    Raises:
        ConfigError: recordings without a codec, or an option that needs sound.
        DataError: latents of different codecs, a folder without latents or recordings, too few references.
        MusicLoraError: the codec or a recording cannot be read.
    """
    _refuse_sound_options(request)
    notes: list[str] = []
    encoder = _Encoder(request, reporter)
    made, bases = _split_bases(encoder.read(request.generated_dir, notes))
    real = encoder.read(reference_dir, notes)
    other = encoder.read(request.baseline_dir, notes) if request.baseline_dir else bases
    _check_same_codec([*made, *real, *other])
    names = [[file.source for file in part] for part in (made, other)]
    distance = compare_vectors(
        _vector_set(made),
        _vector_set(real, resampled=True),
        baseline=_vector_set(other) if other else None,
        matched=are_same_pieces(*names),
        key=KEY,
        title=TITLE,
    )
    return LatentDistance(distance, len(made), len(real), holds_latents(request), (*notes, *distance.notes))


def check_codec(vae: Path) -> Path:
    """Return the path of a codec, or raise ConfigError where there is none."""
    path = expand_home(vae)
    if not path.exists():
        raise ConfigError(f"--vae {vae}: there is no such file or folder")
    return path


def _refuse_sound_options(request: ComparisonRequest) -> None:
    """Raise ConfigError for options that need recordings where a folder holds latents."""
    options = {"--paired": request.paired, "--rank": request.rank, "--picture": request.picture}
    given = [name for name, value in options.items() if value]
    if given and holds_latents(request):
        raise ConfigError(f"{', '.join(given)}: for recordings only, and one of the folders holds latents")


class _Encoder:
    """Reader of latents folders that encodes folders of recordings first; the codec is loaded once."""

    def __init__(self, request: ComparisonRequest, reporter: Reporter) -> None:
        self._vae, self._backend, self._out = request.vae, request.backend, reporter
        self._codec: Any = None
        self._fingerprint = ""

    def read(self, folder: Path, notes: list[str]) -> list[LatentFile]:
        """Summarise the latents of a folder; remarks are added to the notes."""
        if is_latents(folder):
            notes += interruption_notes(folder)
            return summarise_latents(folder)
        if self._vae is None:
            raise ConfigError(
                f"{folder}: holds recordings, and another folder latents; give the codec with --vae, or encode these, "
                "too (musiclora preprocess)"
            )
        if self._codec is None:
            where = check_codec(self._vae)
            self._codec = get_backend(choose(self._backend)).load_codec(where)
            self._fingerprint = codec_fingerprint(where)
        with scratch_folder() as scratch:
            cache = scratch / "latents"
            encoded = encode_recordings(folder, cache, self._codec, self._fingerprint, self._out)
            notes += encoded.notes()
            return summarise_latents(cache)


def summarise_latents(folder: Path) -> list[LatentFile]:
    """Compute mean and standard deviation over time of each channel of every file of a latents folder.

    Raises:
        DataError: the folder is damaged, or another process is still encoding into it.
    """
    found = []
    for item, arrays in read_latents(folder):
        latents = arrays["latents"].astype(np.float64)
        vector = np.concatenate([latents.mean(axis=0), latents.std(axis=0)])
        made_by = (str(item.get("codec", "")), str(item.get("posterior", "mean")).split()[0])
        found.append(LatentFile(str(item["source"]), str(item["sha256"]), vector, made_by))
    return found


def _split_bases(files: Sequence[LatentFile]) -> tuple[list[LatentFile], list[LatentFile]]:
    """Split files into the adapted pieces and the base's versions that `generate --compare` wrote."""
    ordered = sorted(files, key=lambda file: file.source)
    _, bases = split_base_versions([Path(file.source) for file in ordered])
    names = {path.as_posix() for path in bases}
    return ([f for f in ordered if f.source not in names], [f for f in ordered if f.source in names])


def _check_same_codec(files: Sequence[LatentFile]) -> None:
    """Raise DataError for latents that cannot be compared: of several codecs, sizes or kinds."""
    sizes = sorted({len(file.vector) // 2 for file in files})
    if len(sizes) > 1:
        channels = " and ".join(map(str, sizes))
        raise DataError(f"latents of {channels} channels cannot be compared: give those of one codec")
    codecs = sorted({file.made_by[0][:8] for file in files if file.made_by[0]})
    if len(codecs) > 1:
        raise DataError(f"latents of different codecs cannot be compared: {', '.join(codecs)}; encode one set again")
    kinds = sorted({file.made_by[1] for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"latents of different kinds cannot be compared: {' and '.join(kinds)} of the posterior; encode one set "
            "again with the same --posterior"
        )


def _vector_set(files: Sequence[LatentFile], *, resampled: bool = False) -> VectorSet:
    """Group the files of each recording; with `resampled`, those of a single recording stand for recordings."""
    keys = [(f"source {file.source}", f"sound {file.checksum}") for file in files]
    groups = [np.array(group) for group in group_related(keys)]
    if resampled and len(groups) < 2:
        groups = [np.array([number]) for number in range(len(files))]
    return VectorSet(np.stack([file.vector for file in files]), groups)
