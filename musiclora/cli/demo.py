"""`musiclora demo`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import backend_option, json_option, print_json


@click.command()
@click.argument("data_dir", required=False, type=click.Path(path_type=Path))
@click.option(
    "--family",
    type=click.Choice(["symbolic", "audio"]),
    default=None,
    help="Family of the model.  [default: what DATA_DIR holds, else symbolic]",
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
def demo(
    data_dir: Path | None, family: str | None, output_dir: Path, steps: int | None, backend: str, as_json: bool
) -> None:
    """Adapt a bundled base to the songs in DATA_DIR, offline, in a few minutes.

    The base is chosen by what the songs hold, and a fourth of them is held out to compare with. Without DATA_DIR the
    symbolic demo teaches ska to a folk band, and the audio demo learns Chinese melodies on a steel-string guitar.
    Writes the adapter, music of base and adapted model from the same seeds (MIDI or WAV, PNG), and report.html.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import demo as run

    with console() as out:
        result, commands = run(output_dir, family, backend, steps=steps, reporter=out, data_dir=data_dir)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(result.record())
        return
    click.echo("go on with:")
    for command in commands:
        click.echo(f"  {command}")
