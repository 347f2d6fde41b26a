"""Pretraining of a symbolic base: all weights, transpositions as augmentation, a time budget."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from musiclora.convert.files.temporary import scratch_folder
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.errors import ConfigError
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.anticipation import check_anticipation
from musiclora.symbolic.dataset.songs import read_songs
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.task import SymbolicTask
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer
from musiclora.training.config import TrainConfig
from musiclora.training.limits import SessionOptions
from musiclora.training.result import TrainResult
from musiclora.training.resume import open_run
from musiclora.training.session import Session

# Tokens of an epoch for each parameter, below which a warning says that the music is little.
LEAST_TOKENS_A_PARAMETER = 0.1
BAND_SEMITONES = 6  # most semitones by which songs with programs are transposed: every key, each part in its register
# (width, layers, heads, positions); the feed-forward layers are four times as wide.
BASE_SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (64, 2, 2, 256),
    "small": (256, 6, 4, 1024),
    "medium": (512, 6, 8, 1024),
}


@dataclass(frozen=True)
class PretrainOptions:
    """Options of `pretrain` besides the training options.

    Attributes:
        preset: size of a fresh base.
        model: base to go on from, instead of a fresh one.
        minutes: time budget over all starts, which the schedule follows; 0 for none.
        transpose: draw another transposition of each piece every epoch.
        evaluate_every: optimiser steps between evaluations.
        max_held_out: largest number of held-out pieces that are scored.
        low, high: range of a transposed piece's pitches, as MIDI numbers, where tokens hold no programs; with programs,
            a piece moves by at most `BAND_SEMITONES`.
    """

    preset: str = "small"
    model: str | None = None
    minutes: float = 0.0
    transpose: bool = True
    evaluate_every: int = 250
    max_held_out: int = 120
    low: int = 40
    high: int = 93

    def __post_init__(self) -> None:
        if self.preset not in BASE_SIZES:
            raise ConfigError(f"--preset {self.preset!r} is unknown; there are {', '.join(BASE_SIZES)}")


def pretrain_base(
    config: TrainConfig, options: PretrainOptions, reporter: Reporter | None = None, restart: bool = False
) -> TrainResult:
    """Train a base; the result is `model-best/`, a Hugging Face folder with its tokenizer.

    Args:
        config: training options; `model` is ignored.
        options: size, budget, augmentation.
        reporter: told what happens.
        restart: begin again and keep the old run as a backup.
    """
    out = reporter or Reporter()
    run = open_run(config)
    with run.locked(), scratch_folder() as scratch:
        base, tokenizer = _find_or_write_base(options, config, scratch / "fresh")
        check_anticipation(config, tokenizer, base.name)
        n_positions = read_checkpoint(base.path).config.n_positions
        songs = read_songs(config, tokenizer, n_positions, out)
        songs = dataclasses.replace(songs, held_out=songs.held_out[: options.max_held_out])
        # The parts of a band keep their registers: a bass that any key may take would not stay one.
        near = options.transpose and bool(tokenizer.holds.programs)
        pitch_range = (options.low, options.high) if options.transpose and not near else None
        fresh = not options.model
        task = SymbolicTask(base, tokenizer, n_positions, songs, pitch_range, fresh)
        config = dataclasses.replace(config, transpose=BAND_SEMITONES if near else 0)
        if fresh:
            for text in describe_fresh(base.path, task.measure_epoch(config)[0]):
                out.say(text)
        config = dataclasses.replace(
            config, model=options.model or options.preset, trainable="all", allow_base_mismatch=True
        )
        limits = SessionOptions(budget_seconds=options.minutes * 60, evaluate_steps=options.evaluate_every, patience=0)
        return Session(config, task, out, limits, run).train(restart)


def describe_fresh(folder: Path, tokens: int) -> list[str]:
    """Say that a base begins with random weights, and where an epoch's tokens are few for its size."""
    parameters = sum(math.prod(shape) for shape in read_checkpoint(folder).config.tensor_shapes().values())
    lines = [f"a fresh base: {parameters:,} random weights, which know no music before they are trained"]
    if tokens < parameters * LEAST_TOKENS_A_PARAMETER:
        lines.append(
            f"warning: {tokens:,} tokens are few for a base from scratch of {parameters:,} parameters: it will know "
            "little but these songs; give more music, a smaller --preset, or --model for a base that is trained already"
        )
    return lines


def _find_or_write_base(
    options: PretrainOptions, config: TrainConfig, fresh: Path
) -> tuple[BaseModel, SymbolicTokenizer]:
    if options.model:
        base = find_model(options.model)
        return base, find_tokenizer(base, read_checkpoint(base.path).config.vocab_size, config.tokenizer)
    tokenizer: SymbolicTokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else own_tokenizer()
    ends = (tokenizer.bos_id, tokenizer.eos_id) if isinstance(tokenizer, MusicTokenizer) else (None, None)
    width, layers, heads, positions = BASE_SIZES[options.preset]
    shape = Gpt2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=4 * width,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        bos_token_id=ends[0],
        eos_token_id=ends[1],
        scale_attn_by_inverse_layer_idx=isinstance(tokenizer, ArrivalTokenizer),
    )
    write_checkpoint(fresh, shape, fresh_tensors(shape, config.seed), "hf")
    return BaseModel(options.preset, fresh, "Apache-2.0"), tokenizer
