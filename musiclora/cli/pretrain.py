"""`musiclora pretrain`."""

from __future__ import annotations

import click

from musiclora.cli.common import BACKEND_CHOICES, json_option, print_json


@click.command()
@click.option("--data-dir", required=True, help="Folder of songs (MIDI, MusicXML, ABC), or a token cache.")
@click.option("--output-dir", required=True, help="Run folder; resumes an unfinished run in it.")
@click.option(
    "--preset",
    default="small",
    show_default=True,
    help="Size of a fresh base: tiny, small (5 M parameters), medium (20 M).",
)
@click.option("--model", help="Base to train further, instead of a fresh one.")
@click.option(
    "--tokenizer",
    help="own (one part), band (instruments and bars), arrival (instruments and 10 ms steps), a tokenizer.json or its "
    "folder.  [default: own, or the model's]",
)
@click.option(
    "--minutes",
    type=float,
    default=0.0,
    help="Time budget over all starts; the learning rate follows the clock.  [default: 0, no budget]",
)
@click.option("--epochs", type=int, help="Passes over the music.  [default: planned, or as many as --minutes allow]")
@click.option("--max-seq-len", type=int, help="Longest row in tokens.  [default: what the model holds]")
@click.option("--batch-size", type=int, help="Rows in one forward pass.  [default: planned]")
@click.option("--grad-accum-steps", type=int, help="Passes in one optimiser step.  [default: planned]")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--lr-schedule", help="Schedule after the warm-up: cosine, linear or constant.  [default: cosine]")
@click.option("--warmup-steps", type=int, help="Optimiser steps of linear warm-up.  [default: a tenth, at most 100]")
@click.option("--weight-decay", type=float, help="AdamW's decoupled weight decay.  [default: 0.01]")
@click.option("--val-split", type=float, default=0.03, show_default=True, help="Share of the songs held out.")
@click.option(
    "--transpose/--no-transpose",
    default=True,
    help="Transpose each piece at random in every epoch.  [default: on]",
)
@click.option(
    "--anticipation",
    type=float,
    help="Arrival-time tokens: share of the rows with some events given in advance.  [default: 0.9]",
)
@click.option("--evaluate-every", type=int, default=250, show_default=True, help="Optimiser steps between evaluations.")
@click.option("--dtype", help="Arithmetic in float32 or bfloat16; the weights stay float32.  [default: float32]")
@click.option("--num-workers", type=int, help="Worker processes that read and tokenise.")
@click.option(
    "--report-to",
    metavar="LIST",
    help="Experiment trackers that are told what metrics.jsonl holds, and samples: trackio, tensorboard, wandb.",
)
@click.option("--restart", is_flag=True, help="Start again and keep the old run as a backup.")
@click.option("--seed", type=int, help="Seed of the weights, the split and the order.  [default: 42]")
@click.option(
    "--backend", type=BACKEND_CHOICES, help="Framework that computes; auto prints its choice.  [default: auto]"
)
@json_option
def pretrain(
    preset: str,
    model: str | None,
    minutes: float,
    transpose: bool,
    evaluate_every: int,
    restart: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Train all weights of a symbolic base, from scratch or from another base."""
    from musiclora.cli.console import console
    from musiclora.jobs import pretrain as run
    from musiclora.symbolic.pretrain import PretrainOptions
    from musiclora.training.config import resolve_config

    choices = PretrainOptions(preset, model, minutes, transpose, evaluate_every)
    config = resolve_config({**options, "trainable": "all"})
    with console() as out:
        result = run(config, choices, out, restart)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(result.as_json())
    else:
        click.echo(f"report: {result.report}")
        click.echo(f"base: {result.run_dir / 'model-best'}")
