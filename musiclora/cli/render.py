"""`musiclora render`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, overwrite_option, print_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="F.wav for sound, F.png for a piano roll, F.mid for MIDI, F.musicxml, F.mxl or F.abc for a score.",
)
@click.option(
    "--solo",
    metavar="LIST",
    help="Only these: General MIDI names or numbers, drums, track names, track N or #N; commas between.",
)
@click.option("--mute", metavar="LIST", help="Without these, also of those of --solo.")
@click.option(
    "--soundfont",
    type=click.Path(path_type=Path),
    help=".sf2 file.  [default: $MUSICLORA_SOUNDFONT, or the first one installed]",
)
@overwrite_option
@json_option
def render(
    file: Path,
    output: Path,
    solo: str | None,
    mute: str | None,
    soundfont: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Render FILE (MIDI, MusicXML, the first tune of an ABC file) as sound, piano roll, score, or MIDI of some parts.

    Every track keeps its own program, volume, pan and bends. The sound ends after 15 minutes, and a note after 30 s.
    A piano roll has a lane for each instrument, and a row for each drum. In F.mid the chosen parts and all that is no
    note (tempos, metres, keys, lyrics, names, channel settings) stay as they are.
    """
    from musiclora.symbolic.render import render_file

    result = render_file(file, output, soundfont, solo=solo, mute=mute, overwrite=overwrite)
    for remark in result.remarks:
        note(f"{file}: {remark}")
    if as_json:
        print_json(result.record())
    else:
        click.echo(result.line())
