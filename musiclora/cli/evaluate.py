"""`musiclora evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from musiclora.cli.common import (
    ManyCommand,
    ManyOption,
    backend_option,
    json_option,
    note,
    overwrite_option,
    print_json,
)
from musiclora.convert.errors import printable
from musiclora.evaluation.comparison import ComparisonRequest


@click.command(cls=ManyCommand)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of music or recordings, or a cache of them.")
@click.option(
    "--generated-dir",
    type=click.Path(path_type=Path),
    help="Generated songs or recordings, to compare with --reference-dir or --train-dir.",
)
@click.option(
    "--reference-dir", type=click.Path(path_type=Path), help="Real recordings, at least two, or songs, at least four."
)
@click.option(
    "--train-dir",
    type=click.Path(path_type=Path),
    help="Training songs or recordings, to measure what --generated-dir copies of them.",
)
@click.option("--baseline-dir", type=click.Path(path_type=Path), help="Music of a baseline, such as the base model.")
@click.option("--paired", is_flag=True, help="Also compare recordings of the same name frame by frame.")
@click.option("--rank", is_flag=True, help="Also list each generated recording, nearest first.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="PNG file to draw: mean spectra of recordings, style card of songs.",
)
@overwrite_option
@click.option("--model", help="bundled, bundled-band, a Hub id, or a folder.  [default: what the adapter records]")
@click.option("--adapter-dir", "adapters", cls=ManyOption, help="Adapters, each PATH or PATH:STRENGTH.")
@click.option("--tokenizer", help="Symbolic: arrival, a tokenizer.json or its folder.  [default: the model's own]")
@click.option(
    "--vae",
    type=click.Path(path_type=Path),
    help="Audio: the codec.  [default: the one of the model; with --generated-dir: none]",
)
@click.option(
    "--max-seq-len", type=int, help="Longest row in tokens or frames.  [default: what the model holds; audio: 1024]"
)
@click.option("--num-workers", type=int, help="Processes that read and tokenise music.")
@click.option("--allow-base-mismatch", is_flag=True, help="Use an adapter that was trained on another base.")
@backend_option
@json_option
def evaluate(
    data_dir: Path | None,
    generated_dir: Path | None,
    reference_dir: Path | None,
    train_dir: Path | None,
    baseline_dir: Path | None,
    paired: bool,
    rank: bool,
    picture: Path | None,
    overwrite: bool,
    model: str | None,
    adapters: tuple[str, ...],
    tokenizer: str | None,
    vae: Path | None,
    max_seq_len: int | None,
    num_workers: int | None,
    allow_base_mismatch: bool,
    backend: str,
    as_json: bool,
) -> None:
    """Score music: loss, and for tokens perplexity and bits a note, also by instrument where songs have several.

    An adapter is compared with its base.

    With --generated-dir and --reference-dir: distances and artefacts of recordings, with --vae also the kernel distance
    of their latents, or the style card of songs. Both folders may hold latents instead.

    With --generated-dir and --train-dir: the longest match of each song with the training songs, or the most similar
    span of each recording; --reference-dir then holds music that was held out, as the scale.
    """
    if generated_dir or reference_dir or train_dir or baseline_dir or paired or rank or picture:
        if generated_dir is None or not (reference_dir or train_dir) or data_dir is not None:
            raise click.UsageError("Give --generated-dir with --reference-dir or --train-dir, and no --data-dir.")
        request = ComparisonRequest(
            generated_dir,
            reference_dir,
            train_dir,
            baseline_dir=baseline_dir,
            paired=paired,
            rank=rank,
            picture=picture,
            overwrite=overwrite,
            vae=vae,
            backend=backend,
        )
        _compare(request, as_json)
        return
    if data_dir is None:
        raise click.UsageError(
            "Missing option '--data-dir', or '--generated-dir' with '--reference-dir' or '--train-dir'."
        )
    from musiclora.cli.console import console
    from musiclora.jobs import evaluate as run

    with console() as out:
        result = run(
            data_dir,
            model,
            adapters,
            backend,
            tokenizer=tokenizer,
            vae=vae,
            max_seq_len=max_seq_len,
            allow_base_mismatch=allow_base_mismatch,
            workers=num_workers,
            reporter=out,
        )
    _print_result(result, as_json)


def _compare(request: ComparisonRequest, as_json: bool) -> None:
    from musiclora.cli.console import console
    from musiclora.jobs import compare

    with console() as out:
        result = compare(request, out)
    _print_result(result, as_json)


class _Result(Protocol):
    """Scores or distances."""

    @property
    def notes(self) -> Sequence[str]: ...

    def as_json(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


def _print_result(result: _Result, as_json: bool) -> None:
    """Print the notes, then the JSON object or the lines."""
    for text in result.notes:
        note(text)
    if as_json:
        print_json(result.as_json())
        return
    for line in result.lines():
        click.echo(printable(line))
