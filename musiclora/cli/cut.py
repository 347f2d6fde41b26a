"""`musiclora cut`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, print_json


@click.command()
@click.option("--input-dir", required=True, type=click.Path(path_type=Path), help="Folder of recordings; only read.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="New folder of segments.")
@click.option("--seconds", type=float, help="Length of a segment.  [default: 95, or with --times spans as given]")
@click.option("--overlap", type=float, default=0.0, show_default=True, help="Seconds shared with the one before.")
@click.option(
    "--times",
    type=click.Path(path_type=Path),
    help="Cut at these times: lines `recording, start, end[, name]`; seconds, mm:ss.xx or h:mm:ss; - is the end.",
)
@click.option(
    "--leftover",
    type=click.Choice(["keep", "merge", "drop"]),
    default="keep",
    show_default=True,
    help="The rest at the end: a segment of its own, part of the last one, or left out with a line. Under a second it "
    "always joins the last one.",
)
@click.option("--fade", type=float, default=10.0, show_default=True, help="Milliseconds of fade at the cuts.")
@click.option(
    "--loudness",
    type=float,
    help="Bring each segment to this level, in dB RMS of full scale, such as -20; true peaks stay below -1 dB.",
)
@click.option("--flac", is_flag=True, help="Write FLAC in place of WAV.")
@json_option
def cut(
    input_dir: Path,
    output_dir: Path,
    seconds: float | None,
    overlap: float,
    times: Path | None,
    leftover: str,
    fade: float,
    loudness: float | None,
    flac: bool,
    as_json: bool,
) -> None:
    """Cut recordings into segments (stereo, 44.1 kHz, 16 bits), with a manifest that says where each comes from.

    Any format that libsndfile reads, of any length. Silent segments and files that cannot be used are left out with a
    line; so that what `train` holds out shares no recording with what it learns from, give it the whole output folder.
    """
    from musiclora.audio.files.cutting import CutOptions, cut_folder
    from musiclora.cli.console import console

    options = CutOptions(seconds, overlap, leftover, fade, loudness, flac)
    with console() as out:
        result = cut_folder(input_dir, output_dir, options, times, out)
    for text in result.notes:
        note(text)
    length = sum(item["end"] - item["start"] for item in result.segments)
    sources = len({item["source"] for item in result.segments})
    if as_json:
        print_json(
            {
                "output_dir": output_dir,
                "recordings": sources,
                "seconds": length,
                "segments": result.segments,
                "left_out": result.left_out,
                "remarks": result.remarks,
            }
        )
        return
    click.echo(f"{len(result.segments)} segments of {sources} recordings, {length / 60:.1f} minutes, in {output_dir}")
