"""Symbolic demo, offline: a bundled base adapted to the bundled ska or to own songs, scored, heard and seen."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from symusic import Score

from musiclora.adapters import find_adapter
from musiclora.backends.base import FAMILIES, Arrays, LossSum, TokenModel
from musiclora.backends.registry import BACKENDS, choose, get_backend, why_not
from musiclora.convert.adapters.combine import combine_adapters
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.demo.demo_run import check_demo_folder, train_demo
from musiclora.demo.songs import BAND_BASE, DemoSongs, bundled_songs_of_demo, own_songs
from musiclora.demo.symbolic_report import ReportData, ReportSample, write_symbolic_report
from musiclora.demo.symbolic_result import SymbolicDemoOptions, SymbolicDemoResult
from musiclora.demo.symbolic_samples import fullest_openings, make_samples
from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.scores import count_pieces, song_losses, token_gain, token_score, total_loss
from musiclora.progress import Reporter
from musiclora.symbolic.copying import notes_of, notes_of_pieces
from musiclora.symbolic.dataset.batches import song_batches
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.splits import cluster_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.decoding.songs_record import recorded_programs, songs_instruments
from musiclora.symbolic.task import SymbolicTask
from musiclora.training.adapter_effect import note_effect, token_probe
from musiclora.training.run_folder import Run

CROSSED = 2  # test songs scored on the other backend too
ROW_TOKENS = 1024  # longest row
OWN_EVALUATIONS = 6  # of held-out songs; few songs are soon learnt by heart


def symbolic_next_commands(result: SymbolicDemoResult) -> list[str]:
    """List commands to run next."""
    band = f"musiclora generate --adapter-dir {result.adapter} --output trio.mid --instruments piano,bass,drums"
    folder = shlex.quote(str(result.data_dir)) if result.data_dir else "YOUR_FOLDER"
    return [
        f"musiclora generate --adapter-dir {result.adapter} --output new.mid --seed 1 --compare",
        *([band] if result.base == BAND_BASE else []),
        f"musiclora generate --adapter-dir {result.adapter} --output longer.mid --prompt YOUR_SONG.mid --prompt-bars 4",
        "musiclora render new.mid --output new.wav",
        f"musiclora train --model {result.base} --preset bundled --data-dir {folder} --output-dir runs/mine",
    ]


def symbolic_demo(
    folder: Path,
    backend: str = "auto",
    options: SymbolicDemoOptions | None = None,
    reporter: Reporter | None = None,
    data_dir: Path | None = None,
) -> SymbolicDemoResult:
    """Adapt, score, generate, render and report into a folder.

    Args:
        folder: where everything goes; an unfinished training in it is resumed.
        backend: `auto`, `mlx` or `torch`.
        options: see SymbolicDemoOptions.
        reporter: told what happens.
        data_dir: the user's songs; None is the bundled ska.

    Raises:
        MusicLoraError: a backend or the bundled base is missing, the songs do not do, or the folder cannot be written.
    """
    started = time.monotonic()
    o, out = options or SymbolicDemoOptions(), reporter or Reporter()
    check_demo_folder(folder)
    name = choose(backend)
    music = own_songs(data_dir, folder, o.seed, out) if data_dir else bundled_songs_of_demo(o.seed, out)
    openings = fullest_openings(music.openings(), o.prompt_bars, o.pieces)
    base, tokenizer, test = music.base, music.tokenizer, music.test
    if music.is_own:
        o = dataclasses.replace(o, evaluations=max(o.evaluations, OWN_EVALUATIONS))
    config = dataclasses.replace(
        o.train_config(str(music.folder), folder / "run", base.name, name),
        max_seq_len=ROW_TOKENS,
        transpose=o.transpose,
    )
    task = SymbolicTask(base, tokenizer, music.n_positions, music.songs)
    training = train_demo(config, task, o, out)
    adapter = find_adapter(str(training.run_dir / "adapter-best"))
    spec, state = combine_adapters([(adapter.spec, adapter.state, 1.0)])
    model = _load_adapted(name, base.path, spec, state)
    for text in note_effect(model, [adapter], token_probe(model.vocab_size, model.n_positions), base):
        out.say(text)
    batches = song_batches(test, tokenizer, task.row_length(config))
    before, after = _score_both(model, batches, out)
    crossed = {name: total_loss(after[:CROSSED]).mean}
    for other in BACKENDS:
        if other != name and not why_not(other):
            model_there = _load_adapted(other, base.path, spec, state)
            crossed[other] = _score_elsewhere(model_there, other, batches[:CROSSED], out)
    prompts = _prompts(openings, o, recorded_programs([adapter.record]))
    samples = make_samples(model, tokenizer, folder / "music", prompts, out)
    notes = [piece.notes for piece in test]
    result = SymbolicDemoResult(
        folder=folder,
        training=training,
        before=token_score(total_loss(before), sum(notes)),
        after=token_score(total_loss(after), sum(notes)),
        gain=token_gain(before, after, notes, cluster_pieces(test)),
        crossed=crossed,
        samples=samples,
        base=base.name,
        data_dir=data_dir,
        test_words=music.test_words,
        seconds=time.monotonic() - started,
    )
    meter = CopyMeter.from_songs(*(notes_of_pieces(part, tokenizer) for part in (music.songs.train, _outside(music))))
    write_symbolic_report(result.report, _report_data(result, music, o, meter))
    return result


def _outside(music: DemoSongs) -> list[Piece]:
    """List the songs that were not trained on, each once."""
    return music.test if music.is_own else [*music.songs.held_out, *music.test]


def _prompts(
    openings: Sequence[tuple[str, Score]], o: SymbolicDemoOptions, programs: frozenset[int]
) -> list[tuple[str, GenerationRequest]]:
    """Set up the continuation of each song; instruments are chosen as `generate` does."""
    draws = GenerationRequest(max_new_tokens=o.tokens, top_k=50, top_p=0.95, prompt_bars=o.prompt_bars)
    return [
        (
            name,
            dataclasses.replace(draws, seed=o.seed + i, prompt=song, instruments=songs_instruments(programs, song)),
        )
        for i, (name, song) in enumerate(openings)
    ]


def _load_adapted(backend: str, base: Path, spec: LoraSpec, state: Arrays) -> TokenModel:
    model = cast(TokenModel, get_backend(backend).load(FAMILIES["symbolic"], base))
    model.inject_adapter(spec, state)
    return model


def _score_both(
    model: TokenModel, batches: Sequence[Sequence[Arrays]], out: Reporter
) -> tuple[list[LossSum], list[LossSum]]:
    """Return the losses of the test songs by the base and with the adapter."""
    with out.task("scoring test songs with the adapter") as update:
        after = song_losses(model, batches, update)
    model.set_adapter(False)
    with out.task("scoring test songs with the base") as update:
        before = song_losses(model, batches, update)
    model.set_adapter(True)
    return before, after


def _score_elsewhere(model: TokenModel, backend: str, batches: Sequence[Sequence[Arrays]], out: Reporter) -> float:
    """Return the adapter's mean loss on the test songs on another backend."""
    with out.task(f"loading the adapter in {backend}") as update:
        return total_loss(song_losses(model, batches, update)).mean


def _report_data(result: SymbolicDemoResult, music: DemoSongs, o: SymbolicDemoOptions, meter: CopyMeter) -> ReportData:
    songs, samples, copying = music.songs, [], {}
    if result.training.copies:
        copying["the adapter's samples"] = result.training.copies.line()
    for s in result.samples:
        base, adapted = (meter.measure(notes_of(s.name, p.score, p.given)) for p in (s.base, s.adapted))
        copying |= {f"base, {s.name}": base.line(), f"adapted, {s.name}": adapted.line()}
        spans = (base.copied_spans, adapted.copied_spans)
        samples.append(ReportSample(s.name, s.base.score, s.adapted.score, s.base_wav, s.adapted_wav, *spans))
    return ReportData(
        title=music.title,
        subtitle=f"{result.base} adapted to {count_pieces(len(songs.train))} with LoRA on {result.training.backend}",
        before=result.before,
        after=result.after,
        gain=result.gain,
        check=result.training.check,
        metrics=Run(result.training.run_dir).read_metrics(),
        steps=result.training.progress.step,
        seconds=result.training.progress.seconds,
        update=result.training.update,
        samples=samples,
        style=result.training.style,
        copying=copying,
        health=songs.health,
        commands=symbolic_next_commands(result),
        settings={
            "songs to train on": len(songs.train),
            "songs to choose the best step by": len(songs.held_out),
            "songs scored": f"{len(music.test)}{', the same' if music.is_own else ''}",
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
            f"Music: both models continue the first {o.prompt_bars} bars of songs that were not trained on.",
            *music.notes,
            f"Loss of the same adapter by backend, nats a token, {CROSSED} scored songs: {result.crossed_losses()}.",
        ],
    )
