"""`musiclora generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from musiclora.cli.common import ManyCommand, ManyOption, backend_option, json_option, note, print_json

_SYMBOLIC = (
    click.option("--tokenizer", help="Symbolic: tokenizer.json or its folder.  [default: the model's own]"),
    click.option(
        "--max-new-tokens", type=int, help="Symbolic: length; pieces end on a bar line before.  [default: 1024]"
    ),
    click.option("--temperature", type=float, help="Symbolic: lower is safer, 0 always the likeliest.  [default: 1.0]"),
    click.option("--top-p", type=float, help="Symbolic: draw among the likeliest of this share.  [default: 0.95]"),
    click.option("--top-k", type=int, help="Symbolic: draw among so many tokens; 0: among all.  [default: 50]"),
    click.option("--prompt", type=click.Path(path_type=Path), help="Symbolic: a MIDI or ABC file to continue."),
    click.option("--prompt-bars", type=int, help="Symbolic: take only its first bars.  [default: all]"),
)
_AUDIO = (
    click.option("--seconds", type=float, help="Audio: length.  [default: all that the model holds]"),
    click.option("--steps", type=int, help="Audio: grid points of the way from noise to music.  [default: 32]"),
    click.option("--guidance", type=float, help="Audio: how strongly style and text are followed.  [default: 4.0]"),
    click.option("--style", help="Audio: a file, words, or adapter.  [default: the adapter's where it has one]"),
    click.option("--negative-style", type=click.Path(path_type=Path), help="Audio: a style to stay away from."),
    click.option("--init-audio", type=click.Path(path_type=Path), help="Audio: a recording to continue or repaint."),
    click.option(
        "--repaint",
        type=(float, float),
        multiple=True,
        metavar="START END",
        help="Audio: make these seconds of it anew; -1 is its beginning or end. May be given several times.",
    ),
    click.option("--vae", type=click.Path(path_type=Path), help="Audio: the codec.  [default: the one of the model]"),
)


def _family_options(command: Any) -> Any:
    for option in reversed((*_SYMBOLIC, *_AUDIO)):
        command = option(command)
    return command


@click.command(cls=ManyCommand)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="F.mid, or for audio F.wav or F.flac; with --count, F-001.mid and so on.",
)
@click.option("--model", help="bundled, bundled-audio, a Hub id, or a folder.  [default: what the adapter records]")
@click.option("--adapter-dir", "adapters", cls=ManyOption, help="Adapters, each PATH or PATH:STRENGTH.")
@click.option("--seed", type=int, default=42, show_default=True, help="The same seed gives the same music.")
@click.option("--count", type=int, default=1, show_default=True, help="How many pieces.")
@_family_options
@click.option("--compare", is_flag=True, help="Also write the base's version from the same seed, as F-base.mid.")
@click.option("--allow-base-mismatch", is_flag=True, help="Use an adapter although its base differs.")
@backend_option
@json_option
def generate(
    output: Path,
    model: str | None,
    adapters: tuple[str, ...],
    seed: int,
    count: int,
    compare: bool,
    allow_base_mismatch: bool,
    backend: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write new music with a base model and any number of adapters."""
    from musiclora.cli.console import console
    from musiclora.jobs import generate as run

    with console() as out:
        made = run(
            output,
            model,
            adapters,
            backend,
            compare=compare,
            allow_base_mismatch=allow_base_mismatch,
            reporter=out,
            seed=seed,
            count=count,
            **options,
        )
    for text in made.notes:
        note(text)
    if as_json:
        print_json(
            {"backend": made.backend, "base_model": made.base, "seed": seed, "files": [f.record() for f in made.files]}
        )
        return
    for file in made.files:
        click.echo(file.line())
