"""Layout of a run's training batches, by its options: plain, with drawn keys and controls, or weighed by song."""

from __future__ import annotations

from collections.abc import Sequence

from musiclora.symbolic.dataset.batches import BatchPlan, batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import Songs
from musiclora.symbolic.dataset.transpose import TransposedEpochs, transpose_piece, versions_within
from musiclora.symbolic.dataset.weighed_epochs import WeighedEpochs
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.training.config import TrainConfig
from musiclora.training.weighing import BY_SONGS

TrainingRows = BatchPlan | TransposedEpochs | WeighedEpochs


def lay_out_training(
    songs: Songs,
    tokenizer: SymbolicTokenizer,
    config: TrainConfig,
    length: int,
    rows: int,
    pitch_range: tuple[int, int] | None = None,
) -> TrainingRows:
    """Lay out the training batches of a run.

    Args:
        songs: of the run.
        tokenizer: theirs.
        config: the options, complete.
        length: longest row in tokens.
        rows: rows in a batch.
        pitch_range: draw keys in which all pitches lie in this range of MIDI numbers, whatever `transpose` says.
    """
    keys = _song_keys(songs.train, tokenizer, config.transpose, pitch_range)
    anticipation = config.anticipation or 0.0
    if keys is None and not anticipation and config.weigh != BY_SONGS:
        return batch_plan(songs.train, tokenizer, length, rows, config.seed)
    keys = keys or [[piece] for piece in songs.train]
    if config.weigh == BY_SONGS:
        return WeighedEpochs(keys, tokenizer, length, rows, config.seed, songs.song_names, anticipation)
    return TransposedEpochs(keys, tokenizer, length, rows, config.seed, anticipation)


def _song_keys(
    pieces: Sequence[Piece], tokenizer: SymbolicTokenizer, semitones: int, pitch_range: tuple[int, int] | None
) -> list[Sequence[Piece]] | None:
    """Return for each training piece its versions to draw from, or None where songs keep their keys."""
    if pitch_range is not None:
        return [transpose_piece(tokenizer, piece, *pitch_range) or [piece] for piece in pieces]
    return [versions_within(tokenizer, piece, semitones) for piece in pieces] if semitones else None
