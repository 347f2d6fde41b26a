"""Style card of the symbolic family: what scores hold, and the card of a run's samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from symusic import Score

from musiclora.errors import DataError
from musiclora.evaluation.style.card import StyleCard
from musiclora.evaluation.style.compare import LEAST_REFERENCE, MOST_PIECES, compare_styles
from musiclora.evaluation.style.events import PieceEvents, piece_events
from musiclora.music.bars import bar_lines
from musiclora.music.instruments import program_of
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import Songs, one_of_each_song
from musiclora.symbolic.decoding.request import GeneratedPiece
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer


def events_of(name: str, score: Score, given: Score | None = None) -> PieceEvents:
    """Collect the notes of a score.

    Args:
        name: name of the piece.
        score: any score in ticks.
        given: notes that the user gave, in the ticks of `score`; they are left out.
    """
    known = set() if given is None else {key for key, _ in _notes(given)}
    quarter = int(score.ticks_per_quarter)
    rows = [
        (time / quarter, duration / quarter, pitch, velocity, program, track)
        for (time, pitch, program), (duration, velocity, track) in _notes(score)
        if (time, pitch, program) not in known
    ]
    return piece_events(name, rows, np.array(bar_lines(score, int(score.end()))) / quarter)


def _notes(score: Score) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """List the notes of a score: onset in ticks, pitch, program; and duration in ticks, velocity, track."""
    return [
        (
            (int(note.time), int(note.pitch), program_of(track)),
            (int(note.duration), int(note.velocity), number),
        )
        for number, track in enumerate(score.tracks)
        for note in track.notes
    ]


def style_of_samples(
    songs: Songs,
    tokenizer: SymbolicTokenizer,
    pieces: Sequence[GeneratedPiece],
    bases: Sequence[GeneratedPiece],
    *,
    matched: bool,
) -> StyleCard | None:
    """Compare samples with the songs of a run, as their tokens hold them.

    The reference are the held-out songs, and the others the scale. With fewer than four held-out songs all songs are
    the reference, and a remark says so.

    Args:
        songs: split songs.
        tokenizer: theirs.
        pieces: samples of the adapted model.
        bases: of its base.
        matched: the samples come from the same draws one by one.

    Returns:
        The card; None with too few songs or samples.
    """
    held_out, trained = (_events_of_songs(part, tokenizer, MOST_PIECES) for part in (songs.held_out, songs.train))
    known = len(held_out) < LEAST_REFERENCE
    reference, rest = ([*held_out, *trained], []) if known else (held_out, trained)
    made, base = ([events_of(f"{p.number}", p.score, p.given) for p in part] for part in (pieces, bases))
    try:
        card = compare_styles(reference, made, base, rest, matched=matched)
    except DataError:
        return None
    if not known:
        return card
    remark = (
        f"with fewer than {LEAST_REFERENCE} held-out songs the songs it was trained on are the reference: pieces that "
        "copy them look near too"
    )
    return dataclasses.replace(card, notes=(*card.notes, remark))


def _events_of_songs(pieces: Sequence[Piece], tokenizer: SymbolicTokenizer, most: int) -> list[PieceEvents]:
    """Collect the notes that the tokens of songs hold, of at most some songs, evenly spaced."""
    found = one_of_each_song(pieces)
    step = max(1, len(found) / most)
    chosen = [found[int(i * step)] for i in range(min(len(found), most))]
    return [events_of(piece.name, tokenizer.decode(piece.tokens)) for piece in chosen]
