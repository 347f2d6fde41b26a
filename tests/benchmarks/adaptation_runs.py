"""One run of the adaptation benchmark: a recipe, its training, and the scores of songs that it never saw."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from adaptation_data import AdaptationSongs, load_base_songs

from musiclora.backends.base import FAMILIES, TokenModel
from musiclora.backends.registry import get_backend
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import Songs, mix_in
from musiclora.symbolic.dataset.splits import split_pieces
from musiclora.symbolic.model import tokenizer_for
from musiclora.symbolic.task import SymbolicTask
from musiclora.training.config import TrainConfig
from musiclora.training.limits import SessionOptions
from musiclora.training.session import Session

ROW_TOKENS = 1024  # longest row, also when scoring
PATIENCE = 10  # evaluations, one an epoch, of a run that may stop early: the default of `train`


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Attributes:
        songs: songs that a user has; 0 is the whole pool.
        trains: `adapter`, or `all` for full fine-tuning.
        backend, dtype: where it is trained, and the dtype of the frozen base.
        lr, steps, tokens: peak learning rate, optimiser steps, and tokens of one step.
        rank, ratio, dropout, targets: of the adapter; ratio is alpha / rank.
        transpose: largest transposition while training, in semitones.
        decay: weight decay.
        mix: share of the training tokens that come from the base's own training tunes.
        stop: share of the songs that are held out to stop the run; they are not trained on and not reported.
        schedule: of the learning rate.
        dora: 1 trains the lengths of the weights' rows too.
        plus: learning rate of B over that of A (LoRA+).
    """

    songs: int = 15
    trains: str = "adapter"
    backend: str = "torch"
    dtype: str = "bfloat16"
    lr: float = 2e-4
    steps: int = 120
    tokens: int = 1024
    rank: int = 16
    ratio: float = 2.0
    dropout: float = 0.05
    targets: str = "c_attn,c_proj,c_fc"
    transpose: int = 0
    decay: float = 0.01
    mix: float = 0.0
    stop: float = 0.0
    schedule: str = "cosine"
    dora: int = 0
    plus: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read `lr=1e-3 rank=8`; what is not named keeps its default."""
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in kinds:
                raise click.UsageError(f"unknown setting {word!r}; known: {', '.join(kinds)}")
            try:
                values[name] = kinds[name](value)
            except ValueError as error:
                raise click.UsageError(f"{word!r}: {error}") from error
        return cls(**values)

    def name(self) -> str:
        """Format the settings that are not at their defaults."""
        return " ".join(
            f"{f.name}={v:g}" if isinstance(v := getattr(self, f.name), (int, float)) else f"{f.name}={v}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        )

    def config(self, model: str, seed: int, run: Path) -> TrainConfig:
        """Build the training options."""
        length = min(ROW_TOKENS, self.tokens)
        return TrainConfig(
            data_dir="",
            output_dir=str(run),
            model=model,
            backend=self.backend,
            dtype=self.dtype,
            seed=seed,
            trainable=self.trains,
            lr=self.lr,
            lr_schedule=self.schedule,
            lora_r=self.rank,
            lora_alpha=self.ratio * self.rank,
            lora_dropout=self.dropout,
            target_modules=tuple(self.targets.split(",")),
            weight_decay=self.decay,
            max_steps=self.steps,
            batch_size=max(1, self.tokens // length),
            grad_accum_steps=1,
            max_seq_len=length,
            transpose=self.transpose,
            mix_ratio=self.mix or 0.25,
            **self._methods(),
        )

    def _methods(self) -> dict[str, Any]:
        return {
            **({"use_dora": True} if self.dora else {}),
            **({"lora_plus_ratio": self.plus} if self.plus != 1 else {}),
        }


class Bench:
    """Songs and base of one corpus, loaded once for many runs."""

    def __init__(self, model: str, corpus: AdaptationSongs, output_dir: Path) -> None:
        """Keep the parts; the base's own tunes are read when a recipe asks for them."""
        self.model, self.corpus, self.output_dir = model, corpus, output_dir
        self.base, self.tokenizer = find_model(model), tokenizer_for(model)
        self._base_songs: list[Piece] | None = None

    def score(self, model: TokenModel) -> dict[str, float]:
        """Score both fixed sets in bits a note."""
        found = {}
        for name, pieces in (("report", self.corpus.report), ("choosing", self.corpus.choosing)):
            if pieces:
                batches = batch_plan(pieces, self.tokenizer, ROW_TOKENS, 4, 0).batches(0)
                nats = math.fsum(model.loss(batch).total for batch in batches)
                found[name] = nats / math.log(2) / sum(piece.notes for piece in pieces)
        return found

    def score_base(self, backend: str, dtype: str) -> dict[str, float]:
        """Score the base without training."""
        return self.score(get_backend(backend).load(FAMILIES["symbolic"], self.base.path, dtype=dtype))

    def train(self, recipe: Recipe, seed: int) -> tuple[Session[TokenModel], dict[str, Any]]:
        """Train a recipe in a fresh run folder.

        Returns:
            The session with the trained model, and the facts of its training.
        """
        run = self.output_dir / "run"
        shutil.rmtree(run, ignore_errors=True)
        config = recipe.config(self.model, seed, run)
        songs = self._songs(recipe, config)
        shape = read_checkpoint(self.base.path).config
        # `fresh` skips the base's score on training songs, which the fixed sets make needless.
        task = SymbolicTask(self.base, self.tokenizer, shape.n_positions, songs, fresh=True)
        limits = SessionOptions(patience=PATIENCE) if recipe.stop else SessionOptions(evaluations=1, patience=0)
        began = time.monotonic()
        session: Session[TokenModel] = Session(config, task, Reporter(), limits)
        result = session.train()
        facts = {
            "trained_on": len(songs.train),
            "steps": result.progress.step,
            "best_step": result.progress.best_step if recipe.stop else result.progress.step,
            "seconds": round(time.monotonic() - began, 1),
        }
        return session, facts

    def run(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        """Train a recipe and score it."""
        session, facts = self.train(recipe, seed)
        return {**self.score(session.model), **facts}

    def _songs(self, recipe: Recipe, config: TrainConfig) -> Songs:
        """Draw the songs of a run, and hold out those that stop it."""
        drawn, held_out = self.corpus.draw(recipe.songs, config.seed), []
        if recipe.stop:
            split = split_pieces(drawn, recipe.stop, config.seed)
            drawn, held_out = [drawn[i] for i in split.train], [drawn[i] for i in split.val]
        songs = Songs(drawn, held_out, [], [])
        if not recipe.mix:
            return songs
        return mix_in(songs, self._replayed(), config, self.tokenizer)

    def _replayed(self) -> Sequence[Piece]:
        if self._base_songs is None:
            unseen = [*self.corpus.report, *self.corpus.choosing]
            self._base_songs = load_base_songs(self.output_dir.parent / "songs", self.tokenizer, unseen)
        return self._base_songs
