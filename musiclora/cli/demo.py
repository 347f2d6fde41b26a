"""`musiclora demo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from musiclora.cli.common import backend_option, json_option, print_json


@click.command()
@click.option("--family", type=click.Choice(["symbolic"]), default="symbolic", show_default=True, help="Kind of model.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("musiclora-demo"),
    show_default=True,
    help="Where it all goes.",
)
@click.option("--steps", type=int, default=None, help="Optimiser steps.  [default: 80, fewer on a slow machine]")
@backend_option
@json_option
def demo(family: str, output_dir: Path, steps: int | None, backend: str, as_json: bool) -> None:
    """Adapt the bundled base to twenty Chinese folk songs: the whole job, offline, in three minutes.

    Leaves the adapter, music by base and adapted model from the same seeds (MIDI, WAV, PNG), and report.html.
    """
    from musiclora.cli.reporting import console
    from musiclora.demo import DemoOptions, commands
    from musiclora.demo import demo as run

    options = DemoOptions() if steps is None else DemoOptions(steps=steps)
    with console() as out:
        result = run(output_dir, backend, options, out)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json({
            "folder": result.folder, "backend": result.training.backend, "before": dataclasses.asdict(result.before),
            "after": dataclasses.asdict(result.after), "gain": dataclasses.asdict(result.gain),
            "loss_by_backend": result.crossed,
            "seconds": result.seconds, "steps": result.training.progress.step,
        })  # fmt: skip
        return
    click.echo("go on with:")
    for command in commands(result):
        click.echo(f"  {command}")
