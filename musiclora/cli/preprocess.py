"""`musiclora preprocess`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from musiclora.cli.common import backend_option, json_option, note, print_json


@click.command()
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Folder of music or recordings.")
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of tokens or latents; an earlier token cache is replaced.",
)
@click.option(
    "--model",
    help="Model whose tokenizer or codec is used: bundled, bundled-band, bundled-audio, a Hub id, or a folder.",
)
@click.option("--tokenizer", help="Symbolic: arrival, a tokenizer.json or its folder, instead of the model's own.")
@click.option("--vae", type=click.Path(path_type=Path), help="Audio: the codec.  [default: the one of the model]")
@click.option(
    "--style",
    help="DiffRhythm: a file or words for all recordings; muq: MuQ-MuLan's embedding of each; adapter: one vector "
    "trained with the adapter.  [default: adapter]",
)
@click.option(
    "--caption",
    help="ACE-Step: describes every recording.  [default: dataset.json, the text beside each, or the folder's name]",
)
@click.option(
    "--no-estimates",
    "estimates",
    flag_value=False,
    default=None,
    help="ACE-Step: leave tempo and key out where they are not stated, in place of estimating them.",
)
@click.option(
    "--posterior", type=click.Choice(["mean", "sample"]), help="Audio: posterior mean or a sample.  [default: mean]"
)
@click.option("--seed", type=int, default=42, show_default=True, help="Audio: seed of the samples.")
@click.option("--num-workers", type=int, help="Processes that read and tokenise music.")
@backend_option
@json_option
def preprocess(
    data_dir: Path,
    output_dir: Path,
    model: str | None,
    num_workers: int | None,
    backend: str,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Tokenise or encode a folder once; `train --data-dir` and `evaluate --data-dir` accept the result.

    An interrupted encoding resumes.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import preprocess as run

    with console() as out:
        result = run(data_dir, output_dir, model, backend, seed=seed, num_workers=num_workers, reporter=out, **options)
    for text in result.notes():
        note(text)
    if as_json:
        print_json(result.record())
        return
    for line in result.lines():
        click.echo(line)
