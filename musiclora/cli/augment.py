"""`musiclora augment`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from musiclora.cli.common import ManyCommand, ManyOption, json_option, note, print_json, progress


@click.command(cls=ManyCommand)
@click.option("--input-dir", required=True, type=click.Path(path_type=Path), help="Folder of music; it is not changed.")
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the copies; an earlier output of augment in it is replaced.",
)
@click.option("--transpose", cls=ManyOption, type=int, help="Semitones, such as -2 -1 1 2; 0 is always included.")
@click.option("--tempo", cls=ManyOption, type=float, help="Tempo factors, such as 0.9 1.1; 1.0 is always included.")
@click.option("--num-workers", type=int, help="Processes that read music.  [default: the processor's cores]")
@json_option
def augment(
    input_dir: Path,
    output_dir: Path,
    transpose: tuple[int, ...],
    tempo: tuple[float, ...],
    num_workers: int | None,
    as_json: bool,
) -> None:
    """Write transposed and re-timed copies of songs as MIDI files.

    provenance.json records the song of each copy, so that training never uses copies of a held-out song.
    """
    from musiclora.symbolic.reading.augment import augment_folder as run
    from musiclora.symbolic.reading.health import health_json, health_line

    with progress("writing copies") as update:
        summary = run(input_dir, output_dir, transpose, tempo, on_progress=update, workers=num_workers)
    for text in summary.skipped:
        note(f"left out {text}")
    for text in summary.notes:
        note(text)
    if as_json:
        print_json({**dataclasses.asdict(summary), "health": health_json(summary.health)})
        return
    click.echo(f"{summary.songs} songs, {summary.files} files in {output_dir}, {len(summary.skipped)} copies left out")
    click.echo(f"input: {health_line(summary.health)}")
