"""`musiclora listen`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, overwrite_option, print_json


@click.group()
def listen() -> None:
    """Blind listening tests: a page for listeners, and the statistics of their ratings."""


@listen.command()
@click.option("--base-dir", required=True, type=click.Path(path_type=Path), help="Pieces of the model without adapter.")
@click.option(
    "--adapted-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Pieces with the adapter; the same folder as --base-dir after generate --compare.",
)
@click.option(
    "--real-dir", required=True, type=click.Path(path_type=Path), help="Music of the artist, best not trained on."
)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="Page to write, F.html; the key is F.key.json."
)
@click.option("--seconds", type=float, default=15.0, show_default=True, help="Length of an excerpt, 2 to 60.")
@click.option("--count", type=int, help="Excerpts of each kind.  [default: up to 8]")
@click.option("--seed", type=int, help="Seed of pieces, places and ids.  [default: a new one, kept in the key]")
@click.option(
    "--soundfont",
    type=click.Path(path_type=Path),
    help=".sf2 file for MIDI.  [default: $MUSICLORA_SOUNDFONT, or the first one installed]",
)
@click.option("--title", default="Listening test", show_default=True, help="Heading; must not tell what is compared.")
@overwrite_option
@json_option
def make(
    base_dir: Path,
    adapted_dir: Path,
    real_dir: Path,
    output: Path,
    seconds: float,
    count: int | None,
    seed: int | None,
    soundfont: Path | None,
    title: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write one page that plays base, adapted and real excerpts blind.

    The folders hold MIDI files or recordings. The page needs no server and loads nothing. Listeners rate musicality
    and style accuracy from 1 to 5 and hand in a small JSON file.
    """
    from musiclora.cli.console import console
    from musiclora.evaluation.listening.request import ListeningRequest
    from musiclora.jobs.listening import make_listening_test

    request = ListeningRequest(
        base_dir, adapted_dir, real_dir, output, seconds, count, seed, soundfont, title, overwrite
    )
    with console() as reporter:
        result = make_listening_test(request, reporter)
    for remark in result.remarks:
        note(remark)
    if as_json:
        print_json(result.record())
    else:
        click.echo("\n".join(result.lines()))


@listen.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.argument("ratings", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def score(key: Path, ratings: tuple[Path, ...], as_json: bool) -> None:
    """Score the files that listeners handed in, with the KEY that `listen make` wrote.

    RATINGS are files or folders of them. Prints mean opinion scores with 95 % intervals, the change against the base
    and the real music with a permutation test over listeners, and the agreement of listeners.
    """
    from musiclora.jobs.listening import score_listening_test

    result = score_listening_test(key, ratings)
    for text in result.left_out:
        note(f"left out {text}")
    if result.left_out:
        note(f"{len(result.left_out)} of {len(result.left_out) + result.listeners} files of ratings left out")
    for remark in result.remarks():
        note(remark)
    if as_json:
        print_json(result.record())
    else:
        click.echo("\n".join(result.lines()))
