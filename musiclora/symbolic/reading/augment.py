"""Augmentation: transposed and re-timed copies of songs as MIDI files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.convert.errors import ConfigError, DataError, escape_controls
from musiclora.convert.files.atomic import atomic_folder, refuse_existing
from musiclora.convert.files.outputs import check_apart, check_folder
from musiclora.convert.files.temporary import remove_leftovers
from musiclora.progress import OnProgress
from musiclora.symbolic.formats.sanitise import QPM_RANGE
from musiclora.symbolic.reading.health import HealthRow
from musiclora.symbolic.reading.provenance import PROVENANCE_FILE, Origin, read_provenance, write_provenance
from musiclora.symbolic.reading.read_folder import Song, read_music

if TYPE_CHECKING:
    from symusic import Score

_TEMPO_NOTE = (
    "copies at another tempo have the same tokens as their song where a model's tokens hold no tempo (bundled's do "
    "not): train leaves such copies out, and says how many"
)
_MAX_STEM_CHARACTERS = 150
_TEMPOS = "{:g}..{:g}".format(*QPM_RANGE)  # a reader drops others, and the copy would play at 120


@dataclass
class AugmentSummary:
    """Result of augment.

    Attributes:
        songs: number of songs read.
        files: number of files written, unchanged ones included.
        skipped: `name: reason` of each copy that was not written.
        notes: remarks for the user.
        health: health table of the input.
    """

    songs: int = 0
    files: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    health: list[HealthRow] = field(default_factory=list)


def augment_folder(
    input_dir: Path,
    output_dir: Path,
    transpose: Sequence[int] = (),
    tempo: Sequence[float] = (),
    on_progress: OnProgress | None = None,
    workers: int | None = None,
) -> AugmentSummary:
    """Write one MIDI file per song, transposition (and 0) and tempo factor (and 1.0), named `song__t-2__x0.90.mid`.

    Drum tracks are never transposed. A copy whose pitches would leave 0..127 is skipped and reported. A tempo factor
    scales the tempo events and keeps ticks. A tokenizer with tempo tokens (the public base's) encodes the new tempo.
    One without (our own REMI) encodes the same tokens, and load_pieces keeps one of these copies. provenance.json
    records the song of every file. Songs that are copies by the input's provenance.json are skipped.

    Args:
        input_dir: folder of music, or one file; it is not changed.
        output_dir: folder that appears whole or not at all; an earlier output of augment is replaced.
        transpose: semitones.
        tempo: tempo factors; 0.9 is slower.
        on_progress: called with (done, total) files written.
        workers: child processes for reading.

    Raises:
        ConfigError: a transposition or factor is out of range, or one folder lies inside the other.
        DataError: the input holds no usable original.
        OutputError: the output folder holds other things, or cannot be written.
    """
    shifts, factors = _complete_grid(transpose, tempo)
    check_apart(output_dir, {"--input-dir": input_dir})
    check_folder(output_dir)
    remove_leftovers(output_dir.absolute())  # an output that a killed start had set aside comes back
    earlier = _is_augment_output(output_dir)
    refuse_existing(output_dir, overwrite=earlier)
    reading = read_music(input_dir, workers=workers)
    songs = [s for s in reading.songs if s.is_original]
    if not songs:
        raise DataError(f"{input_dir}: it holds only augmented copies; give the folder with the originals")
    summary = AugmentSummary(songs=len(songs), health=reading.health)
    stems = _choose_stems(songs, input_dir if input_dir.is_dir() else input_dir.parent)
    origins: dict[str, Origin] = {}
    total = len(songs) * len(shifts) * len(factors)
    with atomic_folder(output_dir, overwrite=earlier) as building:
        for i, (song, stem) in enumerate(zip(songs, stems, strict=True)):
            (building / stem).parent.mkdir(parents=True, exist_ok=True)
            fitting = [factor for factor in factors if factor == 1.0 or _tempos_fit(song.score, factor)]
            summary.skipped += [
                f"{song.name} at x{_format_factor(factor)}: tempos would leave {_TEMPOS} quarters a minute"
                for factor in factors
                if factor not in fitting
            ]
            for shift in shifts:
                if not _pitches_fit(song.score, shift):
                    summary.skipped.append(f"{song.name} by {shift:+d}: pitches would leave 0..127")
                    continue
                for factor in fitting:
                    name = f"{stem}__t{shift}__x{_format_factor(factor)}.mid"
                    _change_copy(song.score, shift, factor).dump_midi(str(building / name))
                    origins[name] = Origin(song.group, shift, factor, shift == 0 and factor == 1.0)
            if on_progress:
                on_progress((i + 1) * total // len(songs), total)
        write_provenance(building, origins)
    summary.files = len(origins)
    if len(factors) > 1:
        summary.notes.append(_TEMPO_NOTE)
    return summary


def _complete_grid(transpose: Sequence[int], tempo: Sequence[float]) -> tuple[list[int], list[float]]:
    """Check transpositions and factors, add 0 and 1.0, and sort them."""
    for shift in transpose:
        if not -60 <= shift <= 60:
            raise ConfigError(f"--transpose {shift}: give semitones between -60 and 60")
    for factor in tempo:
        if not (math.isfinite(factor) and 0.25 <= factor <= 4):
            raise ConfigError(f"--tempo {factor}: give factors between 0.25 and 4")
    return sorted({0, *transpose}), sorted({1.0, *tempo})


def _is_augment_output(folder: Path) -> bool:
    """Return True where the folder holds only an earlier output of augment."""
    if not (folder / PROVENANCE_FILE).is_file():
        return False
    known = {*read_provenance(folder), PROVENANCE_FILE}
    return all(escape_controls(p.relative_to(folder).as_posix()) in known for p in folder.rglob("*") if not p.is_dir())


def _choose_stems(songs: Sequence[Song], root: Path) -> list[str]:
    """Choose the output path of each song without suffix; all differ, on case-insensitive file systems too."""
    bare = []
    for song in songs:
        path = song.source.relative_to(root)
        safe = escape_controls(path.with_suffix("").as_posix()).replace("\\", "_").replace(":", "_")
        folder, _, leaf = safe.rpartition("/")
        bare.append(f"{folder}/{leaf[:_MAX_STEM_CHARACTERS]}" if folder else leaf[:_MAX_STEM_CHARACTERS])
    files = Counter(stem.casefold() for stem, _ in {(b, s.source) for b, s in zip(bare, songs, strict=True)})
    used: set[str] = set()
    stems = []
    for stem, song in zip(bare, songs, strict=True):
        if files[stem.casefold()] > 1:  # a.mid and a.kar
            stem += "_" + song.source.suffix[1:]
        if song.tune:
            stem += f"-{song.tune:03d}"
        name, n = stem, 1
        while name.casefold() in used:
            n += 1
            name = f"{stem}~{n}"
        used.add(name.casefold())
        stems.append(name)
    return stems


def _format_factor(factor: float) -> str:
    return f"{factor:.2f}" if round(factor, 2) == factor else repr(factor)


def _pitches_fit(score: Score, shift: int) -> bool:
    pitches = [t.notes.numpy()["pitch"] for t in score.tracks if not t.is_drum and len(t.notes)]
    return all(0 <= int(p.min()) + shift and int(p.max()) + shift <= 127 for p in pitches)


def _tempos_fit(score: Score, factor: float) -> bool:
    return all(QPM_RANGE[0] <= tempo.qpm * factor <= QPM_RANGE[1] for tempo in score.tempos)


def _change_copy(score: Score, shift: int, factor: float) -> Score:
    """Return a copy, transposed by semitones and with tempos scaled by a factor."""
    copy = score.copy()
    if shift:
        for track in copy.tracks:
            if not track.is_drum:
                track.shift_pitch(shift, inplace=True)
        for key in copy.key_signatures:
            key.key = (key.key + 7 * shift + 5) % 12 - 5  # a semitone is seven steps round the circle of fifths
    if factor != 1.0:
        for tempo in copy.tempos:
            tempo.qpm *= factor
    return copy
