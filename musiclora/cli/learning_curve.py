"""`musiclora learning-curve`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import BACKEND_CHOICES, json_option, print_json


@click.command("learning-curve")
@click.option("--data-dir", help="Folder of music or of recordings, as for train.")
@click.option("--output-dir", help="Folder of the curve; goes on with an unfinished one in it.")
@click.option("--model", help="Base model, as for train.  [default: xingjianll/midi-gpt2]")
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings at each share of the songs.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with options of train.",
)
@click.option("--preset", help="Options that go together; see train --list-presets.")
@click.option("--val-split", type=float, help="Share of the songs held out.  [default: 0.2]")
@click.option("--epochs", type=int, help="Passes over the songs.  [default: planned]")
@click.option("--max-steps", type=int, help="Stop each training after N optimiser steps.")
@click.option("--max-seq-len", type=int, help="Longest row in tokens or frames.  [default: 1024, at most what fits]")
@click.option("--batch-size", type=int, help="Rows in one forward pass.  [default: planned]")
@click.option("--lr", type=float, help="Peak learning rate.  [default: 1e-3; audio: 2e-4]")
@click.option("--lora-r", type=int, help="LoRA rank.  [default: 16; audio: 8]")
@click.option("--num-workers", type=int, help="Worker processes that read music.  [default: the processor's cores]")
@click.option("--restart", is_flag=True, help="Begin again and keep the old curve as a backup.")
@click.option("--seed", type=int, help="First seed.  [default: 42]")
@click.option(
    "--backend", type=BACKEND_CHOICES, help="Framework that computes; auto prints its choice.  [default: auto]"
)
@json_option
def learning_curve(
    config_file: Path | None, preset: str | None, seeds: int, restart: bool, as_json: bool, **options: object
) -> None:
    """Measure the held-out gain at 1/4, 1/2, 3/4 and all of the songs, and if more songs would help.

    Each share is trained with several seeds. Ctrl-C saves the training under way; the same command goes on with it.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import learning_curve as run
    from musiclora.training.config import resolve_config

    config = resolve_config(options, preset, config_file, {"val_split": 0.2})
    with console() as out:
        curve = run(config, seeds, out, restart)
    for line in curve.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(curve.as_json())
    else:
        click.echo(f"picture: {curve.as_json()['picture']}")
