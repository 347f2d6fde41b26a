"""`musiclora train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from musiclora.cli.common import BACKEND_CHOICES, ManyCommand, ManyOption, json_option, print_json


@click.command(cls=ManyCommand)
@click.option("--data-dir", help="Folder of .mid, .midi, .kar or .abc files or of recordings, or a cache of either.")
@click.option("--output-dir", help="Run folder; an unfinished run in it is resumed.")
@click.option("--model", help="bundled, bundled-audio, a Hub id, or a folder.  [default: xingjianll/midi-gpt2]")
@click.option("--tokenizer", help="Symbolic: tokenizer.json or its folder.  [default: the model's own]")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with these options.",
)
@click.option(
    "--preset", help="conservative (rank 8), capacity (rank 32), bundled (the rate that suits the bundled base)."
)
@click.option("--max-seq-len", type=int, help="Longest row in tokens or frames.  [default: 1024, at most what fits]")
@click.option("--batch-size", type=int, help="Rows in one forward pass.  [default: planned]")
@click.option("--grad-accum-steps", type=int, help="Passes in one optimiser step.  [default: planned]")
@click.option("--epochs", type=int, help="Passes over the songs.  [default: planned]")
@click.option("--max-steps", type=int, help="Stop after so many optimiser steps.")
@click.option("--lr", type=float, help="Peak learning rate.  [default: 2e-4]")
@click.option("--weight-decay", type=float, help="AdamW's decoupled decay.  [default: 0.01]")
@click.option("--lr-schedule", help="cosine, linear or constant.  [default: cosine]")
@click.option("--warmup-steps", type=int, help="Steps of linear rise.  [default: a tenth, at most 100]")
@click.option("--max-grad-norm", type=float, help="Clip gradients to this norm; 0 does not.  [default: 1.0]")
@click.option("--val-split", type=float, help="Share of the songs held out; 0 trains on all.  [default: 0.1]")
@click.option(
    "--patience", type=int, help="Stop after so many epochs without a better held-out loss.  [default: 10; audio: 200]"
)
@click.option("--lora-r", type=int, help="LoRA rank.  [default: 16; audio: 8]")
@click.option("--lora-alpha", type=float, help="LoRA alpha.  [default: twice the rank]")
@click.option("--lora-dropout", type=float, help="LoRA dropout.  [default: 0.05; audio: 0.25]")
@click.option(
    "--target-modules",
    cls=ManyOption,
    help="Layers to adapt.  [default: c_attn c_proj c_fc; audio: attention, times, output]",
)
@click.option(
    "--dtype", help="float32, bfloat16 or float16, of the frozen base.  [default: float32; audio on a GPU: bfloat16]"
)
@click.option(
    "--grad-checkpointing/--no-grad-checkpointing",
    default=None,
    help="Less memory, a third more time.  [default: off; audio: on]",
)
@click.option("--num-workers", type=int, help="Processes that read music.  [default: the processor's cores]")
@click.option("--mix-dir", help="Symbolic: more music to mix in, so that the style stays a flavour.")
@click.option("--mix-ratio", type=float, help="Symbolic: share of tokens from --mix-dir.  [default: 0.25]")
@click.option(
    "--transpose", type=int, help="Symbolic: draw each song's key up to so many semitones away.  [default: 0]"
)
@click.option("--style", help="Audio: a file, or words, for all recordings.  [default: theirs, or one that is trained]")
@click.option("--vae", help="Audio: the codec that encodes recordings.  [default: the one of the model]")
@click.option("--sample-every", type=int, help="Write a sample every so many epochs.  [default: 0, never]")
@click.option("--restart", is_flag=True, help="Begin anew; the old run is kept as a backup.")
@click.option(
    "--allow-base-mismatch", is_flag=True, default=None, help="Go on although the base does not know these tokens."
)
@click.option("--seed", type=int, help="Of the split, the order, the adapter's start and the dropout.  [default: 42]")
@click.option("--backend", type=BACKEND_CHOICES, help="What computes.  [default: auto]")
@json_option
def train(config_file: Path | None, preset: str | None, restart: bool, as_json: bool, **options: Any) -> None:
    """Adapt a base model to a folder of music, or of recordings; the model says which.

    What you do not give is planned from the data and printed first. Ctrl-C saves; the same command goes on.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import train as run
    from musiclora.training.config import resolve

    options["target_modules"] = options["target_modules"] or None
    config = resolve(options, preset, config_file)
    with console() as out:
        result = run(config, out, restart)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        click.echo(f"adapter: {result.run_dir / 'adapter-best'}")
        click.echo(
            f"next: musiclora generate --adapter-dir {result.run_dir / 'adapter-best'} --output {result.example}"
        )
