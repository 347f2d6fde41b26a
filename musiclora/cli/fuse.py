"""`musiclora fuse`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import ManyCommand, ManyOption, backend_option, json_option, print_json


@click.command(cls=ManyCommand)
@click.option(
    "--adapter-dir", "adapters", cls=ManyOption, required=True, help="One or more adapters, each PATH or PATH:STRENGTH."
)
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="New folder of the model.")
@click.option("--model", help="Base model.  [default: the one that the adapters record]")
@click.option("--to", type=click.Choice(["hf", "mlx"]), default="hf", show_default=True, help="Layout of the weights.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Floating-point type.  [default: the base's]"
)
@click.option("--allow-base-mismatch", is_flag=True, help="Continue if the recorded base or tokenizer differs.")
@backend_option
@json_option
def fuse(
    adapters: tuple[str, ...],
    output_dir: Path,
    model: str | None,
    to: str,
    dtype: str | None,
    allow_base_mismatch: bool,
    backend: str,
    as_json: bool,
) -> None:
    """Fuse adapters into their base and write a model that needs no adapter."""
    from dataclasses import asdict

    from musiclora.cli.console import console
    from musiclora.cli.convert import report_check
    from musiclora.conversion.fuse import fuse_adapters

    with console() as out:
        result = fuse_adapters(
            adapters, output_dir, model, to, dtype, backend, allow_base_mismatch=allow_base_mismatch, reporter=out
        )
    if as_json:
        print_json(asdict(result))
        return
    report_check(result)
    click.echo(f"written: {result.path} ({result.kind})")
