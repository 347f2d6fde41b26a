"""Sound files: listing, opening in any format of libsndfile, reading block by block at any rate."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from musiclora.children.sound import DecodedFile, DecodeError
from musiclora.errors import ConfigError, DataError
from musiclora.formats import FOREIGN_ADVICE, FOREIGN_SUFFIXES, RECORDING_SUFFIXES

BLOCK_SAMPLES = 1 << 15  # read at one time
_LONGEST_SECONDS = 1800.0  # of a recording read whole; longer ones are streamed or cut
_LOUDEST = 64.0  # times full scale; a float file beyond it is mislabelled or damaged
_RATES_HZ = (1000, 1_000_000)
_CONTAINERS = {
    "AIFF": {".aif", ".aifc", ".aiff"},
    "AU": {".au"},
    "CAF": {".caf"},
    "FLAC": {".flac"},
    "MP3": {".mp2", ".mp3"},
    "OGG": {".oga", ".ogg", ".opus"},
    "RF64": {".rf64", ".wav"},
    "W64": {".w64"},
    "WAV": {".wav", ".wave"},
    "WAVEX": {".wav", ".wave"},
}
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF0000  # larger sizes mean «not known yet» in files written to a pipe


def audio_libraries() -> tuple[Any, Any]:
    """Import the modules soundfile and soxr.

    Raises:
        ConfigError: one of them is not installed.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ConfigError(f"reading recordings needs {error.name}; try: pip install 'musiclora[audio]'") from error
    return soundfile, soxr


def audio_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """List recordings of a folder and its subfolders in a stable order, and sound in formats that cannot be read.

    Hidden files and folders are skipped.

    Raises:
        DataError: there is no such folder, or it is a file.
    """
    if not folder.is_dir():
        reason = "is a file; give the folder it is in" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {reason}")
    found: list[Path] = []
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        found += [Path(at) / f for f in files if not f.startswith(".")]
    found.sort(key=lambda p: p.relative_to(folder).parts)
    return [p for p in found if p.suffix.lower() in RECORDING_SUFFIXES], [
        p for p in found if p.suffix.lower() in FOREIGN_SUFFIXES
    ]


def recordings_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the same files of a folder that must hold recordings.

    Raises:
        DataError: it holds none.
    """
    files, foreign = audio_files(folder)
    if not files:
        more = f"; {foreign[0].name} {FOREIGN_ADVICE}" if foreign else ""
        raise DataError(f"{folder}: holds no recordings (endings {', '.join(sorted(RECORDING_SUFFIXES))}){more}")
    return files, foreign


def file_problem(path: Path) -> str:
    """Say why a path cannot be a recording, without opening it; empty where it can."""
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        return FOREIGN_ADVICE
    if path.is_symlink() and not path.exists():
        return "is a link that leads nowhere"
    # Opening a pipe would wait for ever.
    return "is not a regular file" if path.exists() and not path.is_file() else ""


def name_problem(name: str) -> str:
    """Say why a recording's name inside its folder cannot stand in an index or manifest; empty where it can."""
    return "" if name == name.encode(errors="replace").decode() else "has a name that is no UTF-8 text; rename it"


class Sound:
    """Open recording, which a child process decodes.

    Attributes:
        path: the file.
        rate: in Hz.
        channels: as stored.
        claimed: samples per channel by the header, 0 where it gives none.
        container, kind: of the file, such as WAV and PCM_16.
        read: samples per channel read so far.
        cut_off: reason why the file counts as truncated, else empty; final once it is read.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            ConfigError: soundfile is not installed.
            DataError: it cannot be read as a recording.
        """
        audio_libraries()
        self.path, self.read, self.cut_off = path, 0, ""
        if problem := file_problem(path):
            raise DataError(f"{path}: {problem}")
        try:
            if not path.stat().st_size:
                raise DataError(f"{path}: is an empty file")
            self._file = DecodedFile(path)
        except (DecodeError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"{path}: cannot be read as a recording ({reason})") from error
        self.rate, self.channels, self.claimed = self._file.rate, self._file.channels, self._file.frames
        self.container, self.kind = self._file.container, self._file.kind
        if not _RATES_HZ[0] <= self.rate <= _RATES_HZ[1] or self.claimed > 1 << 40:
            self._file.close()
            raise DataError(f"{path}: its header says {self.rate} Hz and {self.claimed} samples; it is damaged")
        for said, there in _SHORT_CHUNK.findall(self._file.details):
            if int(there) < int(said) < _UNKNOWN_BYTES:
                share = f"{100 * int(there) / int(said):.0f} %"
                self.cut_off = f"is cut off: {share} of what its header promises is there, and is used"

    def __enter__(self) -> Sound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def misnamed(self) -> str:
        """Remark on a file whose ending contradicts its content; empty where they agree."""
        fits = _CONTAINERS.get(self.container)
        if fits is None or self.path.suffix.lower() in fits:
            return ""
        return f"is {self.container} by its content, whatever its name says"

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels]; a damaged file ends where it breaks off (see cut_off).

        Raises:
            DataError: values that are not finite or far beyond full scale.
        """
        while True:
            try:
                block = self._file.read(BLOCK_SAMPLES)
            except DecodeError:
                self.cut_off = f"is damaged after {self.read / self.rate:.1f} s; what comes before is used"
                return
            if not len(block):
                break
            if not np.isfinite(block).all() or np.abs(block).max() > _LOUDEST:
                where = f"at {self.read / self.rate:.1f} s"
                raise DataError(
                    f"{self.path}: holds values that are no sound {where} (not finite, or far beyond full scale)"
                )
            self.read += len(block)
            yield block
        if self.read < 0.98 * self.claimed and not self.cut_off:
            found, said = self.read / self.rate, self.claimed / self.rate
            self.cut_off = f"is cut off: {found:.1f} s of the {said:.1f} s that its header promises are there"

    def stream(self, rate: int, channels: int = 2) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] at another rate; see `with_channels`.

        The blocks together equal resampling the whole at once.
        """
        _, soxr = audio_libraries()
        resampler = None if rate == self.rate else soxr.ResampleStream(self.rate, rate, channels, dtype="float32")
        for block in self.blocks():
            part = with_channels(block, channels)
            part = part if resampler is None else resampler.resample_chunk(np.ascontiguousarray(part))
            if len(part):
                yield part
        if resampler is not None:
            rest = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
            if len(rest):
                yield rest


def file_checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_channels(block: np.ndarray, channels: int) -> np.ndarray:
    """Take the first channels of a block [n, C], or repeat the only one."""
    return block[:, :channels] if block.shape[1] >= channels else np.repeat(block[:, :1], channels, axis=1)


def read_recording(path: Path, rate: int, channels: int = 2) -> np.ndarray:
    """Read a recording as float32 [channels, samples] at a rate; see `with_channels`.

    Raises:
        ConfigError: soundfile or soxr is not installed.
        DataError: the file cannot be read, is empty, too long, or holds values that are no audio samples.
    """
    with Sound(path) as sound:
        most, parts, held = int(_LONGEST_SECONDS * rate), [], 0
        for part in sound.stream(rate, channels):
            parts.append(part)
            held += len(part)
            if held > most or sound.claimed > _LONGEST_SECONDS * sound.rate:
                minutes = max(sound.claimed / sound.rate, held / rate) / 60
                raise DataError(f"{path}: {minutes:.0f} minutes are too long at once; see musiclora cut")
    if not parts:
        raise DataError(f"{path}: holds no sound")
    return np.ascontiguousarray(np.concatenate(parts).T, np.float32)
