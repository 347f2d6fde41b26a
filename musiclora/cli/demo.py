"""`musiclora demo`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from musiclora.cli.common import backend_option, json_option, print_json


@click.command()
@click.option(
    "--family", type=click.Choice(["symbolic", "audio"]), default="symbolic", show_default=True, help="Kind of model."
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("musiclora-demo"),
    show_default=True,
    help="Where it all goes.",
)
@click.option(
    "--steps", type=int, default=None, help="Optimiser steps.  [default: 80 or 150 by family, fewer on a slow machine]"
)
@backend_option
@json_option
def demo(family: str, output_dir: Path, steps: int | None, backend: str, as_json: bool) -> None:
    """Adapt a bundled base to music of another tradition: the whole job, offline, in three minutes.

    Symbolic: twenty Chinese folk songs. Audio: such songs rendered with a double reed. Leaves the adapter,
    music by base and adapted model from the same seeds (MIDI or WAV, PNG), and report.html.
    """
    from musiclora.cli.console import console

    run, commands = _job(family, steps)
    with console() as out:
        result = run(output_dir, backend, out)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(result.record())
        return
    click.echo("go on with:")
    for command in commands(result):
        click.echo(f"  {command}")


def _job(family: str, steps: int | None) -> tuple[Callable[[Path, str, Any], Any], Callable[[Any], list[str]]]:
    """The demo of a family, and what it recommends to run next."""
    home = importlib.import_module(f"musiclora.demo.{family}")
    options = home.Options() if steps is None else home.Options(steps=steps)
    run, next_commands = getattr(home, f"{family}_demo"), getattr(home, f"{family}_next_commands")
    return (lambda folder, backend, out: run(folder, backend, options, out)), next_commands
