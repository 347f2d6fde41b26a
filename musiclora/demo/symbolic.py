"""The main job on real music, offline: the bundled base adapted to Han folk songs, heard, seen and checked."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.adapters import combine_adapters, find_adapter
from musiclora.backends.base import FAMILIES, LossSum
from musiclora.backends.registry import BACKENDS, choose, get_backend, why_not
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.demo.budget import BudgetSession, is_another_demo
from musiclora.demo.corpora import ESSEN_TERMS, han_folk_songs, order_by_seed, write_tunes
from musiclora.demo.symbolic_report import ReportData, ReportSample, write_symbolic_report
from musiclora.demo.symbolic_samples import Sample, make_samples
from musiclora.evaluation.scores import Gain, Score, song_losses, token_gain, token_score, total_loss
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.batches import song_batches
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.dataset.splits import split_pieces
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.task import Songs, SymbolicTask
from musiclora.training.config import TrainConfig
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import Run

SONGS, CHOOSING, TEST = 20, 10, 40
HAN_SONGS = "Chinese (Han) folk songs, Essen collection, from the installed music21 wheel"


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does; its defaults take under three minutes on two cores.

    Attributes:
        steps: optimiser steps; fewer where they would not fit into `seconds`.
        rows: rows of up to 512 tokens in a step.
        lr, rank, alpha, dropout: of the adapter.
        transpose: songs are learnt in keys up to so many semitones away.
        seconds: longest training.
        pieces: how many are generated, each by the base and by the adapted model.
        tokens: longest piece.
        seed: of everything drawn.
    """

    steps: int = 80
    rows: int = 4
    lr: float = 5e-4
    transpose: int = 5
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    seconds: float = 100.0
    pieces: int = 2
    tokens: int = 400
    seed: int = 7


@dataclass(frozen=True)
class DemoResult:
    """What the demo achieved.

    Attributes:
        folder: everything it wrote.
        training: the run.
        before, after: scores of base and adapter on test songs that nothing was chosen by.
        gain: their difference.
        crossed: held-out loss of the adapter by backend, for every backend that runs here.
        samples: the music.
        seconds: all in all.
    """

    folder: Path
    training: TrainResult
    before: Score
    after: Score
    gain: Gain
    crossed: dict[str, float]
    samples: list[Sample]
    seconds: float

    def lines(self) -> list[str]:
        """The result in words."""
        b, a, g = self.before, self.after, self.gain
        losses = ", ".join(f"{name} {loss:.6f}" for name, loss in self.crossed.items())
        return [
            *self.training.lines(),
            f"on {g.songs} test songs that nothing was chosen by: {b.bits_per_note:.2f} bits a note by the base, "
            f"{a.bits_per_note:.2f} adapted (gain {g.mean:.2f}, 95 % over songs {g.low:.2f} to {g.high:.2f}): "
            f"{g.verdict}",
            f"the same adapter's loss on them by backend: {losses}",
            f"everything is in {self.folder}, open {self.folder / 'report.html'} ({self.seconds:.0f} s in all)",
        ]

    def record(self) -> dict[str, Any]:
        """For --json."""
        return {
            "folder": self.folder,
            "backend": self.training.backend,
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "gain": dataclasses.asdict(self.gain),
            "loss_by_backend": self.crossed,
            "seconds": self.seconds,
            "steps": self.training.progress.step,
        }


def symbolic_next_commands(result: DemoResult) -> list[str]:
    """What to run next."""
    adapter = result.folder / "run" / "adapter-best"
    return [
        f"musiclora generate --adapter-dir {adapter} --output new.mid --seed 1 --compare",
        "musiclora render new.mid --output new.wav",
        "musiclora doctor YOUR_FOLDER",
        "musiclora train --model bundled --preset bundled --data-dir YOUR_FOLDER --output-dir runs/mine",
    ]


def choose_songs(backend_tokenizer: Any, seed: int, reporter: Reporter) -> tuple[Songs, list[Any]]:
    """Songs to train on, songs to choose the best step by, and test songs; no near-duplicates across the three.

    Returns:
        The first two as Songs, and the test pieces.

    Raises:
        DataError: music21 is missing.
    """
    tunes = order_by_seed(han_folk_songs(), seed)[: SONGS + CHOOSING + TEST + 10]
    with tempfile.TemporaryDirectory() as scratch:
        write_tunes(tunes, Path(scratch))
        with reporter.task("reading songs") as update:
            found = load_pieces(Path(scratch), backend_tokenizer, on_progress=update)
    pieces = found.pieces
    outer = split_pieces(pieces, TEST / len(pieces), seed)
    rest = [pieces[i] for i in outer.train][: SONGS + CHOOSING]
    inner = split_pieces(rest, CHOOSING / len(rest), seed)
    songs = Songs([rest[i] for i in inner.train], [rest[i] for i in inner.val], found.health, [])
    return songs, [pieces[i] for i in outer.val]


def symbolic_demo(
    folder: Path, backend: str = "auto", options: DemoOptions | None = None, reporter: Reporter | None = None
) -> DemoResult:
    """Adapt, score, generate, render and report into a folder.

    Args:
        folder: where everything goes; an unfinished training in it is resumed.
        backend: `auto`, `mlx` or `torch`.
        options: see DemoOptions.
        reporter: told what happens.

    Raises:
        MusicLoraError: a backend, the music21 wheel or the bundled base is missing, or the folder cannot be written.
    """
    started = time.monotonic()
    o, out = options or DemoOptions(), reporter or Reporter()
    name = choose(backend)
    base = find_model("bundled")
    shape = read_checkpoint(base.path).config
    tokenizer = find_tokenizer(base, shape.vocab_size, None)
    out.say(f"songs: {HAN_SONGS}")
    out.say(f"terms: {ESSEN_TERMS}")
    songs, test = choose_songs(tokenizer, o.seed, out)
    config = TrainConfig(
        data_dir=HAN_SONGS,
        output_dir=str(folder / "run"),
        model="bundled",
        backend=name,
        seed=o.seed,
        lr=o.lr,
        lora_r=o.rank,
        lora_alpha=o.alpha,
        lora_dropout=o.dropout,
        batch_size=o.rows,
        grad_accum_steps=1,
        max_seq_len=512,
        max_steps=o.steps,
        patience=1000,
        transpose=o.transpose,
    )
    session = BudgetSession(config, o.seconds, out, SymbolicTask(base, tokenizer, shape.n_positions, songs))
    training = session.train(restart=is_another_demo(session.run, config))
    batches = song_batches(test, tokenizer, session.length)
    notes = [piece.notes for piece in test]
    model, (spec, state) = _adapted(name, base.path, training)
    before, after = _both(model, batches, out)
    crossed = {name: total_loss(after).mean, **_elsewhere(name, base.path, spec, state, batches, out)}
    samples = make_samples(model, tokenizer, folder / "music", o.seed, o.pieces, o.tokens, out)
    scores = token_score(total_loss(before), sum(notes)), token_score(total_loss(after), sum(notes))
    difference, seconds = token_gain(before, after, notes), time.monotonic() - started
    result = DemoResult(folder, training, *scores, difference, crossed, samples, seconds)
    _report(result, songs, o)
    return result


def _report(result: DemoResult, songs: Songs, o: DemoOptions) -> None:
    losses = ", ".join(f"{name} {loss:.6f}" for name, loss in result.crossed.items())
    samples = [ReportSample(s.name, s.base.score, s.adapted.score, s.base_wav, s.adapted_wav) for s in result.samples]
    write_symbolic_report(
        result.folder / "report.html",
        ReportData(
            title="Chinese folk songs on a fiddle-tune model",
            subtitle=f"The bundled base adapted to {len(songs.train)} Han songs with LoRA on {result.training.backend}",
            before=result.before,
            after=result.after,
            gain=result.gain,
            metrics=Run(result.training.run_dir).read_metrics(),
            update=result.training.update,
            samples=samples,
            health=songs.health,
            commands=symbolic_next_commands(result),
            settings={
                "songs to train on": len(songs.train),
                "songs to choose the best step by": len(songs.held_out),
                "test songs": result.gain.songs,
                "steps": result.training.progress.step,
                "rank": o.rank,
                "alpha": o.alpha,
                "dropout": o.dropout,
                "learning rate": o.lr,
                "keys": f"within {o.transpose} semitones",
                "rows in a step": o.rows,
                "seed": o.seed,
            },
            notes=[
                f"Songs: {HAN_SONGS}. Terms: {ESSEN_TERMS}.",
                f"Loss of the same adapter on the test songs, in nats a token, by backend: {losses}.",
            ],
        ),
    )


def _adapted(backend: str, base: Path, training: TrainResult) -> tuple[Any, tuple[Any, Any]]:
    adapter = find_adapter(str(training.run_dir / "adapter-best"))
    spec, state = combine_adapters([(adapter.spec, adapter.state, 1.0)])
    model: Any = get_backend(backend).load(FAMILIES["symbolic"], base)
    model.inject_adapter(spec, state)
    return model, (spec, state)


def _both(model: Any, batches: Any, out: Reporter) -> tuple[list[LossSum], list[LossSum]]:
    with out.task("scoring test songs with the adapter") as update:
        after = song_losses(model, batches, update)
    model.set_adapter(False)
    with out.task("scoring test songs with the base") as update:
        before = song_losses(model, batches, update)
    model.set_adapter(True)
    return before, after


def _elsewhere(name: str, base: Path, spec: Any, state: Any, batches: Any, out: Reporter) -> dict[str, float]:
    """The adapter's loss on the test songs in every other backend that runs here."""
    losses = {}
    for other in BACKENDS:
        if other == name or why_not(other):
            continue
        model: Any = get_backend(other).load(FAMILIES["symbolic"], base)
        model.inject_adapter(spec, state)
        with out.task(f"loading the adapter in {other}") as update:
            losses[other] = total_loss(song_losses(model, batches, update)).mean
    return losses
