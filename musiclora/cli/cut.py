"""`musiclora cut`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, print_json


@click.command()
@click.option("--input-dir", required=True, type=click.Path(path_type=Path), help="Folder of recordings; only read.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="New folder of segments.")
@click.option("--seconds", type=float, help="Length of a segment.  [default: 95, or with --times spans as given]")
@click.option("--overlap", type=float, default=0.0, show_default=True, help="Seconds shared with the previous segment.")
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
    help="Rest at the end: keep as a segment, merge into the last one, or drop with a remark. A rest under a second is "
    "always merged.",
)
@click.option("--fade", type=float, default=10.0, show_default=True, help="Milliseconds of the fade at each cut.")
@click.option(
    "--loudness",
    type=float,
    help="Level of each segment in dB RMS of full scale, such as -20; true peaks stay below -1 dB.",
)
@click.option("--flac", is_flag=True, help="Write FLAC instead of WAV.")
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
    """Cut recordings into segments (stereo, 44.1 kHz, 16 bits), with a manifest of their sources.

    Reads any format of libsndfile, of any length. Silent segments and unusable files are left out with a remark. Give
    the whole output folder to `train`: it never splits one recording between training and validation.
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
