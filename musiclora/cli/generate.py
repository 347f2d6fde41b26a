"""`musiclora generate`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import ManyCommand, ManyOption, backend_option, json_option, note, print_json


@click.command(cls=ManyCommand)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="F.mid; with --count, F-001.mid and so on."
)
@click.option("--model", help="bundled, a Hub id, or a model folder.  [default: the base the adapter records]")
@click.option("--adapter-dir", "adapters", cls=ManyOption, help="Adapters, each PATH or PATH:STRENGTH.")
@click.option("--tokenizer", help="tokenizer.json or its folder.  [default: the model's own]")
@click.option("--seed", type=int, default=42, show_default=True, help="The same seed gives the same music.")
@click.option("--count", type=int, default=1, show_default=True, help="How many pieces.")
@click.option(
    "--max-new-tokens", type=int, default=1024, show_default=True, help="Length; pieces end on a bar line before."
)
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Lower is safer, 0 always the likeliest."
)
@click.option(
    "--top-p", type=float, default=0.95, show_default=True, help="Draw among the likeliest of this total share."
)
@click.option("--top-k", type=int, default=50, show_default=True, help="Draw among so many tokens; 0: among all.")
@click.option("--prompt", type=click.Path(path_type=Path), help="A MIDI or ABC file to continue.")
@click.option("--prompt-bars", type=int, default=0, help="Take only its first bars.  [default: all]")
@click.option("--compare", is_flag=True, help="Also write the base's version from the same seed, as F-base.mid.")
@click.option("--allow-base-mismatch", is_flag=True, help="Use an adapter although its base differs.")
@backend_option
@json_option
def generate(
    output: Path, model: str | None, adapters: tuple[str, ...], tokenizer: str | None, seed: int, count: int,
    max_new_tokens: int, temperature: float, top_p: float, top_k: int, prompt: Path | None, prompt_bars: int,
    compare: bool, allow_base_mismatch: bool, backend: str, as_json: bool,
) -> None:  # fmt: skip
    """Write new music with a base model and any number of adapters."""
    from musiclora.cli.reporting import console
    from musiclora.composing import compose
    from musiclora.generation import GenerationRequest

    request = GenerationRequest(max_new_tokens, temperature, top_k, top_p, seed, count, prompt_bars=prompt_bars)
    with console() as out:
        made = compose(
            output, request, model=model, adapters=adapters, backend=backend, tokenizer=tokenizer, prompt=prompt,
            compare=compare, allow_base_mismatch=allow_base_mismatch, reporter=out,
        )  # fmt: skip
    for text in made.notes:
        note(text)
    if as_json:
        print_json(
            {"backend": made.backend, "base_model": made.base, "seed": seed, "files": [f.record() for f in made.files]}
        )
        return
    for file in made.files:
        ending = "ended by the model" if file.piece.ended else "cut at a bar line"
        click.echo(f"{file.path}: {file.piece.notes} notes, {file.seconds:.0f} s, {file.kind}, {ending}")
