"""Symbolic music as what a run learns from: songs as tokens, a base that predicts them, its tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError
from musiclora.evaluation.scores import token_gain, token_score, total_loss
from musiclora.families import checkpoint_fingerprint
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.batches import batch_plan, song_batches
from musiclora.symbolic.dataset.pieces import Piece, PieceSet, load_pieces
from musiclora.symbolic.dataset.splits import near_duplicates, split_pieces
from musiclora.symbolic.dataset.transpose import TransposedEpochs, versions_within
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.tokens.tokenizer import TOKENIZER_FILE, MusicTokenizer
from musiclora.training.adapter_files import AdapterForm, save_model
from musiclora.training.config import TrainConfig
from musiclora.training.task import PlanDefaults, Scores

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
class SymbolicTask:
    """A base, its tokenizer and the songs (implements `material.Material`)."""

    family: ClassVar[str] = "symbolic"
    pace: ClassVar[PlanDefaults] = PlanDefaults()
    form: ClassVar[AdapterForm] = AdapterForm()

    base: BaseModel
    tokenizer: MusicTokenizer
    n_positions: int
    songs: Songs

    def fingerprint(self) -> str:
        return self.songs.fingerprint

    def counts(self) -> tuple[int, int]:
        return len(self.songs.train), len(self.songs.held_out)

    def lines(self) -> Sequence[str]:
        train, held_out = self.counts()
        return [f"{train} pieces to train on, {held_out} held out", *self.songs.notes]

    def row_length(self, config: TrainConfig) -> int:
        return min(config.max_seq_len, self.n_positions)

    def widest(self, config: TrainConfig) -> tuple[int, int]:
        single = self.epochs(config, 1)
        return single.tokens_per_epoch, max(batch["tokens"].shape[1] for batch in single.batches(0))

    def epochs(self, config: TrainConfig, rows: int) -> Any:
        length, seed = self.row_length(config), config.seed
        if not config.transpose:
            return batch_plan(self.songs.train, self.tokenizer, length, rows, seed)
        keys = [versions_within(self.tokenizer, piece, config.transpose) for piece in self.songs.train]
        return TransposedEpochs(keys, self.tokenizer, length, rows, seed)

    def held_out(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        if not self.songs.held_out:
            return []
        return list(batch_plan(self.songs.held_out, self.tokenizer, self.row_length(config), rows, 0).batches(0))

    def song_batches(self, config: TrainConfig) -> list[list[Arrays]]:
        return song_batches(self.songs.held_out, self.tokenizer, self.row_length(config))

    def dtype(self, config: TrainConfig, device: str) -> str:
        return config.dtype or "float32"

    def checkpointing(self, config: TrainConfig) -> bool:
        return bool(config.grad_checkpointing)

    def check_base(self, model: Any, loss: float, config: TrainConfig, load: Any) -> str | None:
        return check_against_chance(loss, model.vocab_size, self, config.allow_base_mismatch)

    def begin(self, model: Any, saved: Arrays | None) -> None:
        """Nothing is trained beside the adapter."""

    def arrays(self, model: Any) -> Arrays:
        found: Arrays = model.read_adapter()
        return found

    def restore(self, model: Any, arrays: Arrays) -> None:
        model.write_adapter(arrays)

    def restore_best(self, model: Any, folder: Path) -> Arrays:
        best = read_peft(folder).state
        model.write_adapter(best)
        return best

    def scores(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        notes = [piece.notes for piece in self.songs.held_out]
        base, trained = (token_score(total_loss(sums), sum(notes)) for sums in (before, after))
        return Scores(base, trained, token_gain(before, after, notes))

    def fingerprints(self) -> dict[str, str]:
        return checkpoint_fingerprint(self.base.path)

    def files(self, model: Any) -> Mapping[str, bytes]:
        return {TOKENIZER_FILE: self.tokenizer.to_json().encode()}

    def record(self) -> dict[str, Any]:
        return {}

    def save_model(self, path: Path, model: Model) -> None:
        save_model(path, model, read_checkpoint(self.base.path).config, self.tokenizer.to_json().encode())

    def facts(self, config: TrainConfig) -> dict[str, Any]:
        return {"tokenizer": config.tokenizer or self.tokenizer.kind}

    def sample(self, model: Any, folder: Path, name: str, seed: int) -> None:
        from musiclora.symbolic.decoding.continuation import write_midi_sample

        write_midi_sample(model, self.tokenizer, folder, name, seed)


def check_against_chance(loss: float, vocab_size: int, prepared: SymbolicTask, allow: bool) -> str | None:
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
        raise ConfigError(
            f"{text}: its tokenizer, inferred from the vocabulary size, is probably not this one; "
            "give --tokenizer, or --allow-base-mismatch to go on"
        )
    return f"{text}: it may be the wrong base or tokenizer"


def load_symbolic_task(config: TrainConfig, reporter: Reporter, backend: str) -> SymbolicTask:
    """What Session asks of every family: read, check and split the data; needs no backend here."""
    with reporter.task("reading songs") as update:
        return read_symbolic_task(config, update)


def read_symbolic_task(config: TrainConfig, on_progress: Callable[[int, int], None] | None = None) -> SymbolicTask:
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
    return SymbolicTask(base, tokenizer, shape.n_positions, songs)


def split_songs(pieces: PieceSet, config: TrainConfig) -> Songs:
    """Split by song and near-duplicate cluster; with val_split 0 all songs are trained on."""
    if config.val_split == 0:
        return Songs(list(pieces.pieces), [], pieces.health, ["no songs are held out (--val-split 0)"])
    found = pieces.pieces
    parts = split_pieces(found, config.val_split, config.seed)
    return Songs([found[i] for i in parts.train], [found[i] for i in parts.val], pieces.health, list(parts.notes))


def mix_in(songs: Songs, extra: Sequence[Piece], config: TrainConfig) -> Songs:
    """Songs with music of --mix-dir among those to train on, without near duplicates of held-out songs."""
    related = {i for i, _ in near_duplicates(extra, against=songs.held_out)} if songs.held_out else set()
    apart = [piece for i, piece in enumerate(extra) if i not in related]
    notes = list(songs.notes)
    if related:
        notes.append(f"{len(related)} pieces of --mix-dir are left out: near duplicates of held-out songs")
    return dataclasses.replace(songs, train=mix_pieces(songs.train, apart, config.mix_ratio, config.seed), notes=notes)


def mix_pieces(train: Sequence[Piece], extra: Sequence[Piece], ratio: float, seed: int) -> list[Piece]:
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
