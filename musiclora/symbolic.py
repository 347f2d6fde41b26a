"""Symbolic music as what a run learns from: songs as tokens, a base that predicts them, its tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from musiclora.artifacts import AdapterForm, save_model
from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.config import TrainConfig
from musiclora.convert.adapter import read_peft
from musiclora.convert.fingerprint import checkpoint_fingerprint
from musiclora.convert.gpt2 import read_checkpoint
from musiclora.data.pieces import Piece
from musiclora.data.tokenizer import TOKENIZER_FILE, MusicTokenizer
from musiclora.epochs import TransposedEpochs, batch_plan, keys_within, song_batches
from musiclora.errors import ConfigError
from musiclora.evaluation import gain, score
from musiclora.losses import add
from musiclora.material import Pace, Scores
from musiclora.models import BaseModel

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
    """A base, its tokenizer and the songs (implements `material.Material`)."""

    family: ClassVar[str] = "symbolic"
    pace: ClassVar[Pace] = Pace()
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
        keys = [keys_within(self.tokenizer, piece, config.transpose) for piece in self.songs.train]
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
        return check_base_loss(loss, model.vocab_size, self, config.allow_base_mismatch)

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
        base, trained = (score(add(sums), sum(notes)) for sums in (before, after))
        return Scores(base, trained, gain(before, after, notes))

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
        from musiclora.generation import sample_to_folder

        sample_to_folder(model, self.tokenizer, folder, name, seed)


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
        raise ConfigError(
            f"{text}: its tokenizer, inferred from the vocabulary size, is probably not this one; "
            "give --tokenizer, or --allow-base-mismatch to go on"
        )
    return f"{text}: it may be the wrong base or tokenizer"
