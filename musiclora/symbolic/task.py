"""Symbolic training task: tokenised songs, the base that learns them, and its tokenizer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from musiclora.adapters import Adapter, find_adapter
from musiclora.backends.base import Arrays, LossSum, Model, TokenModel
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.copies.samples import SampleCopies
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.evaluation.scores import count_pieces, token_gain, token_score, total_loss
from musiclora.evaluation.verdict import BaseCheck
from musiclora.families import checkpoint_fingerprint
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.anticipation import (
    DEFAULT_SHARE,
    AccompanimentRows,
    check_anticipation,
    describe_anticipation,
    has_accompaniment,
)
from musiclora.symbolic.dataset.batches import batch_plan, song_batches
from musiclora.symbolic.dataset.songs import Songs, read_songs
from musiclora.symbolic.dataset.splits import cluster_pieces
from musiclora.symbolic.dataset.training_rows import TrainingRows, lay_out_training
from musiclora.symbolic.dataset.weighed_epochs import WeighedEpochs
from musiclora.symbolic.decoding.grammar import expand_ids
from musiclora.symbolic.decoding.grammar.onset_keys import ONSET_RECORD, count_notes_at_once, onset_keys
from musiclora.symbolic.decoding.loudness import LOUDNESS_RECORD, sum_loudness
from musiclora.symbolic.decoding.songs_record import INSTRUMENTS_RECORD, songs_instruments
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.reading.health import skip_reasons
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.protocol import TOKENIZER_FILE, SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.symbolic.training_copies import TrainingCopies
from musiclora.training.adapter_files import AdapterForm, save_model
from musiclora.training.config import TrainConfig
from musiclora.training.task import PlanDefaults, Scores, TrainingTask

_JUDGED_TOKENS = 200_000  # of training songs that the base is judged on, so that a large folder takes no hour


@dataclass(frozen=True)
class SymbolicTask:
    """Training task of the symbolic family (implements `TrainingTask`).

    Attributes:
        base: the base model.
        tokenizer: the base's.
        n_positions: longest row that the base can hold, in tokens.
        songs: tokenised and split.
        pitch_range: lowest and highest MIDI pitch of the transposition that is drawn for each song every epoch; None
            leaves transpositions to --transpose.
        fresh: the base has random weights, which `pretrain` drew.
        started_from: adapter that training starts from, whose songs were trained on too.
    """

    family: ClassVar[str] = "symbolic"
    plan_defaults: ClassVar[PlanDefaults] = PlanDefaults()
    form: ClassVar[AdapterForm] = AdapterForm()

    base: BaseModel
    tokenizer: SymbolicTokenizer
    n_positions: int
    songs: Songs
    pitch_range: tuple[int, int] | None = None
    fresh: bool = False
    started_from: Adapter | None = None

    def hash_data(self) -> str:
        return self.songs.fingerprint

    def count_songs(self) -> tuple[int, int]:
        return len(self.songs.train), len(self.songs.held_out)

    def describe_data(self) -> Sequence[str]:
        train, held_out = self.count_songs()
        return [f"{count_pieces(train, 'pieces')} to train on, {held_out} held out", *self.songs.notes]

    def complete_options(self, config: TrainConfig) -> TrainConfig:
        given = config.anticipation is not None or not isinstance(self.tokenizer, ArrivalTokenizer)
        return config if given else dataclasses.replace(config, anticipation=DEFAULT_SHARE)

    def describe_plan(self, config: TrainConfig) -> Sequence[str]:
        share, rows = self.complete_options(config).anticipation, self.training_epochs(config, 1)
        lines = [] if share is None else [describe_anticipation(share)]
        return [*lines, rows.describe()] if isinstance(rows, WeighedEpochs) else lines

    def row_length(self, config: TrainConfig) -> int:
        return min(config.max_seq_len, self.n_positions)

    def measure_epoch(self, config: TrainConfig) -> tuple[int, int]:
        single_rows = self.training_epochs(config, 1)
        return single_rows.tokens_per_epoch, single_rows.longest_row

    def training_epochs(self, config: TrainConfig, rows: int) -> TrainingRows:
        options, length = self.complete_options(config), self.row_length(config)
        return lay_out_training(self.songs, self.tokenizer, options, length, rows, self.pitch_range)

    def held_out_batches(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        if not self.songs.held_out:
            return []
        return batch_plan(self.songs.held_out, self.tokenizer, self.row_length(config), rows, 0).batches(0)

    def further_batches(self, config: TrainConfig, rows: int) -> Mapping[str, Sequence[Arrays]]:
        """Lay out accompaniment: the rows of held-out bands with the melody given and the rest scored."""
        if not isinstance(self.tokenizer, ArrivalTokenizer):
            return {}
        bands = [piece for piece in self.songs.held_out if has_accompaniment(piece.tokens)]
        if not bands:
            return {}
        plan = batch_plan(bands, self.tokenizer, self.row_length(config), rows, 0)
        return {"accompaniment": plan.batches(0, layout=AccompanimentRows())}

    def song_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        return song_batches(self.songs.held_out, self.tokenizer, self.row_length(config))

    def judging_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        if self.fresh:
            return []
        songs = self.songs.train
        order = np.random.default_rng([config.seed, 2]).permutation(len(songs)).tolist()
        before = np.cumsum([0, *(len(songs[i].tokens) for i in order)])
        judged = [songs[i] for i, tokens in zip(order, before, strict=False) if tokens < _JUDGED_TOKENS]
        return song_batches(judged, self.tokenizer, self.row_length(config))

    def hash_songs(self) -> Sequence[str]:
        return sorted({piece.fingerprint for piece in self.songs.train})

    def choose_dtype(self, config: TrainConfig, device: str) -> str:
        return config.dtype or "float32"

    def needs_checkpointing(self, config: TrainConfig) -> bool:
        return bool(config.grad_checkpointing)

    def check_base(
        self, model: TokenModel, loss: float, config: TrainConfig, load: Callable[[Path], Model]
    ) -> BaseCheck:
        return check_against_chance(loss, model.vocab_size, self, config.allow_base_mismatch)

    def compare_losses(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        notes = [piece.notes for piece in self.songs.held_out]
        base, trained = (token_score(total_loss(sums), sum(notes)) for sums in (before, after))
        return Scores(base, trained, token_gain(before, after, notes, cluster_pieces(self.songs.held_out)))

    def write_sample(self, model: TokenModel, folder: Path, name: str, seed: int) -> None:
        from musiclora.symbolic.decoding.pieces import write_midi_sample
        from musiclora.symbolic.render import render_audio

        limits = (self._notes_at_once(), songs_instruments(self._copies.programs))
        midi = write_midi_sample(model, self.tokenizer, folder, name, seed, *limits)
        if midi is not None:
            with suppress(DataError):  # no synthesiser or soundfont: the report shows the notes alone
                render_audio(midi, midi.with_suffix(".wav"))

    def measure_samples(self, model: TokenModel, count: int, seed: int) -> SampleCopies | None:
        return self._copies.measure_samples(model, count, seed, self._notes_at_once())

    def judge_samples(self, model: TokenModel, count: int, seed: int) -> SampleFindings:
        return self._copies.judge_samples(model, count, seed, self._notes_at_once())

    def copied_spans(self, sample: Path) -> Sequence[tuple[float, float]]:
        return self._copies.copied_spans(sample) if sample.suffix == ".mid" else ()

    @cached_property
    def _copies(self) -> TrainingCopies:
        return TrainingCopies(self.songs, self.tokenizer, self.started_from)

    def begin_training(self, model: TokenModel, saved: Arrays | None) -> None:
        """Do nothing: the adapter is all that is trained."""

    def trained_arrays(self, model: TokenModel) -> Arrays:
        return model.read_adapter()

    def restore_state(self, model: TokenModel, arrays: Arrays) -> None:
        model.write_adapter(arrays)

    def restore_adapter(self, model: TokenModel, folder: Path) -> Arrays:
        best = read_peft(folder).model_state
        model.write_adapter(best)
        return best

    def base_fingerprints(self) -> dict[str, str]:
        return checkpoint_fingerprint(self.base.path)

    def extra_files(self, model: TokenModel) -> Mapping[str, bytes]:
        return {TOKENIZER_FILE: self.tokenizer.to_json().encode(), **self._copies.files}

    def adapter_record(self) -> dict[str, Any]:
        notes = self._notes_at_once()
        loudness = sum_loudness(piece.loudness for piece in self.songs.train).as_json()
        return {
            **({} if notes is None else {ONSET_RECORD: notes}),
            **({LOUDNESS_RECORD: loudness} if loudness else {}),
            **({INSTRUMENTS_RECORD: list(programs)} if (programs := self._copies.programs) else {}),
            "trained_on": self.hash_songs(),
        }

    def _notes_at_once(self) -> int | None:
        """Count the most notes that begin at one onset in the training songs; None for tokens without that limit."""
        if not isinstance(self.tokenizer, MusicTokenizer):
            return None
        rule = onset_keys(expand_ids(self.tokenizer.inner))
        return count_notes_at_once(rule, (piece.tokens for piece in self.songs.train))

    def card_lines(self) -> Sequence[str]:
        return [f"of its songs, {line}" for line in describe_kept(self.songs.kept, self.tokenizer.holds)]

    def run_record(self, config: TrainConfig) -> dict[str, Any]:
        return {
            "tokenizer": config.tokenizer or self.tokenizer.kind,
            "held_out_songs": [piece.name for piece in self.songs.held_out],
            "skipped_files": skip_reasons(self.songs.health),
            "kept_by_tokens": self.songs.kept.as_json(),
            **({} if config.anticipation is None else {"anticipation": config.anticipation}),
        }

    def save_model(self, path: Path, model: TokenModel) -> None:
        files = {TOKENIZER_FILE: self.tokenizer.to_json().encode(), RECORD: json.dumps(self.adapter_record()).encode()}
        save_model(path, model, read_checkpoint(self.base.path).config, files)


if TYPE_CHECKING:

    def _as_training_task(task: SymbolicTask) -> TrainingTask[TokenModel]:
        return task


def check_against_chance(loss: float, vocab_size: int, task: SymbolicTask, allow: bool) -> BaseCheck:
    """Compare the base's loss on the songs with that of an even guess, ln V.

    Returns:
        Both, and a warning where the base does not know these songs.

    Raises:
        ConfigError: the tokenizer was inferred, the base does no better than guessing, and this was not allowed.
    """
    check = BaseCheck(loss, math.log(vocab_size))
    if check.is_known or task.fresh:
        return check
    text = chance_text(task.base.name, check)
    if task.tokenizer.inferred and not allow:
        raise ConfigError(
            f"{text}: its tokenizer, inferred from the vocabulary size, is probably not this one; "
            "give --tokenizer, or --allow-base-mismatch to go on"
        )
    text = f"{text}: it may be the wrong base or tokenizer; what is gained over it says little about the style"
    return dataclasses.replace(check, warning=text)


def chance_text(base: str, check: BaseCheck) -> str:
    """Say that a base does not know the songs."""
    return f"{base} predicts these songs no better than chance (loss {check.loss:.2f}, guessing {check.guess:.2f})"


def load_symbolic_task(config: TrainConfig, reporter: Reporter, backend: str) -> SymbolicTask:
    """Check the base, find its tokenizer, read and split the songs; nothing is written.

    Args:
        config: the options.
        reporter: told how far the reading is.
        backend: ignored; tokens do not depend on it.

    Raises:
        ConfigError, ConvertError, DataError: whatever does not fit, in one line.
    """
    base = find_model(config.model)
    shape = read_checkpoint(base.path).config
    tokenizer = find_tokenizer(base, shape.vocab_size, config.tokenizer)
    check_anticipation(config, tokenizer, base.name)
    songs = read_songs(config, tokenizer, shape.n_positions, reporter)
    earlier = find_adapter(config.adapter_dir) if config.adapter_dir else None
    return SymbolicTask(base, tokenizer, shape.n_positions, songs, started_from=earlier)
