"""`musiclora demo`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import backend_option, json_option, print_json


@click.command()
@click.option(
    "--family",
    type=click.Choice(["symbolic", "audio"]),
    default="symbolic",
    show_default=True,
    help="Family of the model.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("musiclora-demo"),
    show_default=True,
    help="Folder of the adapter, the music and the report; the music of an earlier demo is replaced.",
)
@click.option(
    "--steps", type=int, default=None, help="Optimiser steps.  [default: 60 or 150 by family, fewer on a slow machine]"
)
@backend_option
@json_option
def demo(family: str, output_dir: Path, steps: int | None, backend: str, as_json: bool) -> None:
    """Adapt a bundled base to music of another style, offline, in three minutes at most.

    The symbolic demo teaches ska to a folk band; the audio demo learns Chinese melodies on a steel-string guitar.
    Writes the adapter, music of base and adapted model from the same seeds (MIDI or WAV, PNG), and report.html.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import demo as run

    with console() as out:
        result, commands = run(output_dir, family, backend, steps=steps, reporter=out)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(result.record())
        return
    click.echo("go on with:")
    for command in commands:
        click.echo(f"  {command}")
