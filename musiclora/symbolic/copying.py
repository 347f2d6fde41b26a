"""Copy meter of the symbolic family: notes of scores, meters of folders, adapters and training songs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.adapters import Adapter, training_songs
from musiclora.convert.errors import list_names
from musiclora.evaluation.copies.index_file import COPY_INDEX, identify_songs, read_copy_index
from musiclora.evaluation.copies.meter import CopyMeter, CopyResult
from musiclora.evaluation.copies.notes import NoteList, note_list
from musiclora.music.bars import bar_lines
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import one_of_each_song
from musiclora.symbolic.reading.health import describe_skipped
from musiclora.symbolic.reading.read_folder import Song, read_music
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

if TYPE_CHECKING:
    from symusic import Score


def notes_of(name: str, score: Score, given: Score | None = None) -> NoteList:
    """Collect the pitched notes of a score in ticks.

    Args:
        name: name of the piece.
        score: any score; drum tracks are left out.
        given: notes that the user gave, in the ticks of `score`; they are left out.
    """
    quarter = int(score.ticks_per_quarter)
    known = set() if given is None else {row[:3] for row in _rows(given)}
    rows = [
        (time / quarter, pitch, track)
        for time, pitch, program, track in _rows(score)
        if (time, pitch, program) not in known
    ]
    return note_list(name, rows, np.array(bar_lines(score, int(score.end()))) / quarter)


def _rows(score: Score) -> Iterable[tuple[int, int, int, int]]:
    """Yield onset in ticks, pitch, program and number of the track of each pitched note."""
    for number, track in enumerate(score.tracks):
        if not track.is_drum:
            for note in track.notes:
                yield int(note.time), int(note.pitch), int(track.program), number


def notes_of_pieces(pieces: Sequence[Piece], tokenizer: SymbolicTokenizer) -> list[NoteList]:
    """Collect the notes that the tokens of songs hold; of a song and its augmented copies the first original."""
    return [notes_of(piece.name, tokenizer.decode(piece.tokens)) for piece in one_of_each_song(pieces)]


@dataclass(frozen=True)
class FolderSongs:
    """Songs of a folder with their scores, and remarks for the user."""

    songs: list[Song]
    notes: tuple[str, ...] = ()

    def note_lists(self) -> list[NoteList]:
        """Collect the pitched notes of each song."""
        return [notes_of(song.name, song.score) for song in self.songs]


def read_songs_of(folder: Path, reporter: Reporter, title: str = "reading songs") -> FolderSongs:
    """Read the songs of a folder, without copies that `augment` made.

    Raises:
        DataError: no folder, or no song that can be read.
    """
    with reporter.task(title) as update:
        reading = read_music(folder, on_progress=update)
    originals = [song for song in reading.songs if song.is_original]
    return FolderSongs(originals or reading.songs, tuple(describe_skipped(reading.health)))


class PieceMeter:
    """Copy meter of generated pieces: against a folder of songs, or against the indexes of adapters.

    Attributes:
        notes: remarks for the user.
    """

    def __init__(self, meters: Sequence[CopyMeter], notes: Iterable[str] = ()) -> None:
        self._meters = meters
        self.notes = tuple(dict.fromkeys([*notes, *(note for meter in meters for note in meter.notes)]))

    def measure(self, name: str, score: Score, given: Score | None = None) -> CopyResult:
        """Measure a piece with every meter, and return the result that is farthest beyond its threshold."""
        piece = notes_of(name, score, given)
        return max((meter.measure(piece) for meter in self._meters), key=lambda found: found.content - found.threshold)


def open_piece_meter(adapters: Sequence[Adapter], train_dir: Path | None, reporter: Reporter) -> PieceMeter | None:
    """Open the meter of a generation: against `--train-dir`, else by the indexes that adapters carry.

    Args:
        adapters: adapters of the model.
        train_dir: folder of the training songs, which tells bars and names.
        reporter: shows progress.

    Returns:
        The meter; None where neither is at hand.

    Raises:
        DataError: the folder holds no songs, or an index is damaged or another adapter's.
    """
    if train_dir is not None:
        found = read_songs_of(train_dir, reporter, "reading the training songs")
        meter = CopyMeter.from_songs(found.note_lists())
        return PieceMeter([meter], (f"--train-dir: {note}" for note in found.notes))
    indexed = [adapter for adapter in adapters if (adapter.path / COPY_INDEX).is_file()]
    if not indexed:
        return None
    without = [adapter.path.name for adapter in adapters if adapter not in indexed]
    notes = [f"no copy index in {list_names(without, 3)}: copies of its songs are not found"] if without else []
    return PieceMeter(
        [read_copy_index(adapter.path / COPY_INDEX, identify_songs(training_songs([adapter]))) for adapter in indexed],
        notes,
    )
