"""`musiclora blend`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, print_json


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[:STRENGTH]...")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--rank", type=int, help="Compress to this rank and report the error.  [default: exact; ranks add up]")
@json_option
def blend(adapters: tuple[str, ...], destination: Path, rank: int | None, as_json: bool) -> None:
    """Blend several adapters, each with a strength, into one in the new folder DESTINATION."""
    from dataclasses import asdict

    from musiclora.conversion.blend import blend_adapters

    result, spec, error = blend_adapters(adapters, destination, rank)
    if as_json:
        print_json({**asdict(result), "rank": spec.rank, "error": error})
        return
    for text in result.notes:
        note(text)
    words = f"compressed, the update changed by {100 * error:.2f} %" if error else "exact"
    click.echo(f"written: {result.path} (rank {spec.rank}, {words})")
