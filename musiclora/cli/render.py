"""`musiclora render`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import note


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="x.wav for sound, x.png for a piano roll."
)
@click.option(
    "--soundfont", type=click.Path(path_type=Path), help="A .sf2 file.  [default: $MUSICLORA_SOUNDFONT or found]"
)
def render(file: Path, output: Path, soundfont: Path | None) -> None:
    """Turn FILE (MIDI, or the first tune of an ABC file) into sound or into a picture."""
    from musiclora.symbolic.render import render_file

    render_file(file, output, soundfont)
    note(f"wrote {output}")
