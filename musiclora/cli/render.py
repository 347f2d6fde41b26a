"""`musiclora render`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import note, overwrite_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="F.wav for sound, F.png for a piano roll."
)
@click.option(
    "--soundfont",
    type=click.Path(path_type=Path),
    help=".sf2 file.  [default: $MUSICLORA_SOUNDFONT, or the first one installed]",
)
@overwrite_option
def render(file: Path, output: Path, soundfont: Path | None, overwrite: bool) -> None:
    """Render FILE (MIDI, or the first tune of an ABC file) as sound or as a piano roll."""
    from musiclora.symbolic.render import render_file

    render_file(file, output, soundfont, overwrite=overwrite)
    note(f"wrote {output}")
