"""From a folder of music and a base model to what the training loop takes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.config import TrainConfig
from musiclora.convert.gpt2 import read_checkpoint
from musiclora.data.batches import BatchPlan
from musiclora.data.pieces import Piece, PieceSet, load_pieces, write_token_cache
from musiclora.data.splits import near_duplicates, split
from musiclora.data.tokenizer import MusicTokenizer
from musiclora.data.tokens import check_fits, infer_tokenizer, load_tokenizer
from musiclora.errors import ConfigError
from musiclora.models import BaseModel, find_model

# A model that guesses evenly has ln V; this close to it, it has not seen these tokens before.
_GUESSING = 0.95


@dataclass(frozen=True)
class Songs:
    """Tokenised songs, split; held-out songs have no relative among the training songs.

    Attributes:
        train, held_out: pieces.
        health: one row a file or tune.
        notes: what the user should know about the split.
    """

    train: list[Piece]
    held_out: list[Piece]
    health: Sequence[Any]
    notes: list[str]

    @property
    def fingerprint(self) -> str:
        """Hash of all names and tokens, to tell whether a resumed run still has the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            for piece in part:
                digest.update(piece.name.encode() + b"\0" + np.ascontiguousarray(piece.tokens, np.int32).tobytes())
            digest.update(b"|")
        return digest.hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A base, its tokenizer and the songs."""

    base: BaseModel
    tokenizer: MusicTokenizer
    n_positions: int
    songs: Songs


def prepare(config: TrainConfig, on_progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Check the base, find its tokenizer, read and split the songs; nothing is written.

    Raises:
        ConfigError, ConvertError, DataError: whatever does not fit, in one line.
    """
    base = find_model(config.model)
    shape = read_checkpoint(base.path).config
    tokenizer = find_tokenizer(base, shape.vocab_size, config.tokenizer)
    pieces = load_pieces(Path(config.data_dir), tokenizer, workers=config.num_workers, on_progress=on_progress)
    songs = split_songs(pieces, config)
    if config.mix_dir:
        extra = load_pieces(Path(config.mix_dir), tokenizer, workers=config.num_workers, on_progress=on_progress)
        songs = mix_in(songs, extra.pieces, config)
    return Prepared(base, tokenizer, shape.n_positions, songs)


def tokenizer_for(model: str, wanted: str | None) -> MusicTokenizer:
    """The tokenizer of a base by the value of --model, or the one asked for."""
    if wanted is not None:
        return load_tokenizer(wanted)
    base = find_model(model)
    return find_tokenizer(base, read_checkpoint(base.path).config.vocab_size, None)


def write_cache(
    data_dir: Path,
    output_dir: Path,
    tokenizer: MusicTokenizer,
    workers: int | None,
    on_progress: Callable[[int, int], None],
) -> PieceSet:
    """Tokenise a folder of music into a token cache."""
    pieces = load_pieces(data_dir, tokenizer, workers=workers, on_progress=on_progress)
    write_token_cache(output_dir, pieces, tokenizer)
    return pieces


def find_tokenizer(base: BaseModel, vocab_size: int, wanted: str | None) -> MusicTokenizer:
    """The tokenizer asked for, else the one beside the model, else the one its vocabulary size implies.

    Raises:
        DataError: none is known, or it has more tokens than the model.
    """
    if wanted is None:
        return infer_tokenizer(base.path, vocab_size)
    tokenizer = load_tokenizer(wanted)
    check_fits(tokenizer, vocab_size)
    return tokenizer


def split_songs(pieces: PieceSet, config: TrainConfig) -> Songs:
    """Split by song and near-duplicate cluster; with val_split 0 all songs are trained on."""
    if config.val_split == 0:
        return Songs(list(pieces.pieces), [], pieces.health, ["no songs are held out (--val-split 0)"])
    found = pieces.pieces
    parts = split(found, config.val_split, config.seed)
    return Songs([found[i] for i in parts.train], [found[i] for i in parts.val], pieces.health, list(parts.notes))


def mix_in(songs: Songs, extra: Sequence[Piece], config: TrainConfig) -> Songs:
    """Songs with music of --mix-dir among those to train on, without near duplicates of held-out songs."""
    related = {i for i, _ in near_duplicates(extra, against=songs.held_out)} if songs.held_out else set()
    apart = [piece for i, piece in enumerate(extra) if i not in related]
    notes = list(songs.notes)
    if related:
        notes.append(f"{len(related)} pieces of --mix-dir are left out: near duplicates of held-out songs")
    return dataclasses.replace(songs, train=mixed(songs.train, apart, config.mix_ratio, config.seed), notes=notes)


def mixed(train: Sequence[Piece], extra: Sequence[Piece], ratio: float, seed: int) -> list[Piece]:
    """Add pieces of another folder, in random order, until they hold `ratio` of all training tokens."""
    wanted = sum(len(p.tokens) for p in train) * ratio / (1 - ratio)
    taken: list[Piece] = []
    held = 0
    for index in np.random.default_rng([seed, 1]).permutation(len(extra)):
        if held >= wanted:
            break
        taken.append(extra[index])
        held += len(extra[index].tokens)
    return [*train, *taken]


def row_length(config: TrainConfig, n_positions: int) -> int:
    """Longest row: --max-seq-len, at most what the model can hold."""
    return min(config.max_seq_len, n_positions)


def batch_plan(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int, rows: int, seed: int) -> BatchPlan:
    """Rows and batches of some pieces."""
    return BatchPlan(list(pieces), length, rows, seed, bos=tokenizer.bos_id, eos=tokenizer.eos_id, pad=tokenizer.pad_id)


def song_batches(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int) -> list[list[Arrays]]:
    """Batches of each song on its own, for scores by song."""
    return [list(batch_plan([p], tokenizer, length, 4, 0).batches(0)) for p in pieces]


def song_losses(
    model: Model, batches: Sequence[Sequence[Arrays]], on_song: Callable[[int, int], None] | None = None
) -> list[LossSum]:
    """Summed loss of each song."""
    sums = []
    for number, song in enumerate(batches, 1):
        parts = [model.loss(batch) for batch in song]
        sums.append(LossSum(sum(p.total for p in parts), sum(p.weight for p in parts)))
        if on_song is not None:
            on_song(number, len(batches))
    return sums


def add(parts: Sequence[LossSum]) -> LossSum:
    """Sum of sums."""
    return LossSum(sum(p.total for p in parts), sum(p.weight for p in parts))


def check_base_loss(loss: float, vocab_size: int, prepared: Prepared, allow: bool) -> str | None:
    """Notice a base that does not know these tokens.

    Returns:
        A warning, or None.

    Raises:
        ConfigError: the tokenizer was inferred, the base does no better than guessing, and this was not allowed.
    """
    guessing = math.log(vocab_size)
    if not loss >= _GUESSING * guessing:
        return None
    text = f"{prepared.base.name} predicts these songs no better than chance (loss {loss:.2f}, guessing {guessing:.2f})"
    if prepared.tokenizer.inferred and not allow:
        raise ConfigError(f"{text}: its tokenizer, inferred from the vocabulary size, is probably not this one; "
                          "give --tokenizer, or --allow-base-mismatch to go on")  # fmt: skip
    return f"{text}: it may be the wrong base or tokenizer"
