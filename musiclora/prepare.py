"""From a folder of music and a symbolic base to what the training loop takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.config import TrainConfig
from musiclora.convert.gpt2 import read_checkpoint
from musiclora.data.pieces import Piece, PieceSet, load_pieces, write_token_cache
from musiclora.data.splits import near_duplicates, split
from musiclora.data.tokenizer import MusicTokenizer
from musiclora.data.tokens import check_fits, infer_tokenizer, load_tokenizer
from musiclora.epochs import batch_plan, song_batches
from musiclora.losses import add, song_losses
from musiclora.models import BaseModel, find_model
from musiclora.results import Reporter
from musiclora.symbolic import Prepared, Songs, check_base_loss

__all__ = [
    "Prepared",
    "Songs",
    "TokensResult",
    "add",
    "batch_plan",
    "check_base_loss",
    "find_tokenizer",
    "material",
    "mix_in",
    "mixed",
    "prepare",
    "preprocess",
    "song_batches",
    "song_losses",
    "split_songs",
    "tokenizer_for",
]


def material(config: TrainConfig, reporter: Reporter, backend: str) -> Prepared:
    """What Session asks of every family: read, check and split the data; needs no backend here."""
    with reporter.task("reading songs") as update:
        return prepare(config, update)


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


@dataclasses.dataclass(frozen=True)
class TokensResult:
    """What `preprocess` made of songs."""

    folder: Path
    pieces: PieceSet

    def record(self) -> dict[str, Any]:
        """For --json."""
        from musiclora.data.health import health_json

        p = self.pieces
        tokens = sum(len(piece.tokens) for piece in p.pieces)
        return {
            "pieces": len(p.pieces),
            "songs": p.songs,
            "notes": p.notes,
            "tokens": tokens,
            "health": health_json(p.health),
        }

    def lines(self) -> list[str]:
        """For people."""
        from musiclora.data.health import health_line

        p = self.pieces
        return [f"{len(p.pieces)} pieces of {p.songs} songs in {self.folder}: {health_line(p.health)}"]

    def notes(self) -> list[str]:
        """What the user should know."""
        return []


def preprocess(
    data_dir: Path,
    output_dir: Path,
    model: str,
    reporter: Reporter,
    *,
    backend: str = "auto",
    seed: int = 42,
    tokenizer: str | None = None,
    num_workers: int | None = None,
) -> TokensResult:
    """Tokenise a folder of music into a token cache; no backend is needed and nothing is drawn."""
    chosen = tokenizer_for(model, tokenizer)
    with reporter.task("tokenising") as update:
        pieces = load_pieces(data_dir, chosen, workers=num_workers, on_progress=update)
        write_token_cache(output_dir, pieces, chosen)
    return TokensResult(output_dir, pieces)


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
