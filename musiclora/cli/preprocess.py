"""`musiclora preprocess`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, print_json, progress


@click.command()
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Folder of music.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="Folder of the token cache.")
@click.option("--model", help="Whose tokenizer to use: bundled, a Hub id, or a model folder.")
@click.option("--tokenizer", help="tokenizer.json or its folder, instead of the model's own.")
@click.option("--num-workers", type=int, help="Processes that read and tokenise.")
@json_option
def preprocess(
    data_dir: Path, output_dir: Path, model: str | None, tokenizer: str | None, num_workers: int | None, as_json: bool
) -> None:
    """Tokenise a folder once; `train --data-dir` and `evaluate --data-dir` take the cache instead of the folder."""
    from musiclora.config import DEFAULT_MODEL
    from musiclora.data.health import health_json, health_line
    from musiclora.prepare import tokenizer_for, write_cache

    chosen = tokenizer_for(model or DEFAULT_MODEL, tokenizer)
    with progress("tokenising") as update:
        pieces = write_cache(data_dir, output_dir, chosen, num_workers, update)
    if as_json:
        tokens = sum(len(piece.tokens) for piece in pieces.pieces)
        print_json({"pieces": len(pieces.pieces), "songs": pieces.songs, "notes": pieces.notes, "tokens": tokens,
                    "health": health_json(pieces.health)})  # fmt: skip
        return
    click.echo(f"{len(pieces.pieces)} pieces of {pieces.songs} songs in {output_dir}: {health_line(pieces.health)}")
