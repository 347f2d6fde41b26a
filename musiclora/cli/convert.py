"""`musiclora convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musiclora.cli.common import backend_option, json_option, note, print_json

if TYPE_CHECKING:
    from musiclora.conversion.verify import Converted

# Those of the records in `families`, which are not imported for --help; a test compares them.
ADAPTER_FORMATS = ("peft", "mlx-lm", "diffusers", "comfyui", "kohya")
DTYPE_CHOICES = click.Choice(["float32", "float16", "bfloat16"])


@click.group()
def convert() -> None:
    """Write a model or an adapter in another format and verify the copy."""


@convert.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["hf", "mlx", "diffusers"]),
    help="Layout; diffusers is for ACE-Step and for the audio codec.",
)
@click.option("--dtype", type=DTYPE_CHOICES, help="Floating-point type of the copy.  [default: the source's]")
@click.option(
    "--causal",
    is_flag=True,
    help="Audio: weights of the v1.0 line (DiffRhythm-base, -full), whose attention is causal.",
)
@click.option("--quantize", type=click.Choice(["4", "8"]), help="With --to mlx: quantise to this many bits.")
@click.option(
    "--vae", type=click.Path(path_type=Path), help="Audio: checkpoint of the codec, which goes into the same folder."
)
@json_option
def model(
    source: str,
    destination: Path,
    to: str,
    dtype: str | None,
    causal: bool,
    quantize: str | None,
    vae: Path | None,
    as_json: bool,
) -> None:
    """Convert the model SOURCE into the new folder DESTINATION.

    Symbolic: a GPT-2 folder, a Hub id or `bundled`, with safetensors, shards, pytorch_model.bin or mlx-lm's layout.
    Names may lack the `transformer.` prefix, or have those of trainers. A Hub id may end in `@revision`.
    DiffRhythm: cfm_model.pt, vae_model.pt, their safetensors, or a folder. ACE-Step: the original's folder of one
    model, with codec and text encoder beside it, the folder around them, or a diffusers pipeline.
    """
    from musiclora.cli.console import console
    from musiclora.conversion.model import convert_model

    with console() as out:
        bits = int(quantize) if quantize else None
        result = convert_model(source, destination, to, dtype, causal=causal, vae=vae, bits=bits, reporter=out)
    _report_result(result, as_json)


@convert.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(ADAPTER_FORMATS), help="Adapter format.")
@click.option("--model", "base", help="Base model, to compare outputs.  [default: the recorded one if local]")
@click.option("--allow-base-mismatch", is_flag=True, help="Continue if the recorded base differs.")
@backend_option
@json_option
def adapter(
    source: str, destination: Path, to: str, base: str | None, allow_base_mismatch: bool, backend: str, as_json: bool
) -> None:
    """Convert the adapter SOURCE into the new folder DESTINATION (for kohya and comfyui, a file).

    The format of SOURCE is recognised from its files. Symbolic: PEFT and mlx-lm. Audio: PEFT, diffusers, kohya, for
    ACE-Step comfyui, and as SOURCE the .pt of lora_music_generation.
    """
    from musiclora.conversion.adapter import convert_adapter

    result = convert_adapter(source, destination, to, base, backend, allow_base_mismatch=allow_base_mismatch)
    _report_result(result, as_json)


def report_check(result: Converted) -> None:
    """Print notes and the results of the checks after writing."""
    for text in result.notes:
        note(text)
    if result.update_difference is not None:
        click.echo(f"largest difference of the update: {result.update_difference:.2g} of its largest value")
    if result.logit_difference is not None:
        click.echo(
            f"largest difference of the logits on {result.backend}: {result.logit_difference:.2g} "
            f"(largest logit {result.largest_logit:.3g})"
        )
    if result.velocity_difference is not None:
        click.echo(
            f"largest difference of the velocity on {result.backend}: {result.velocity_difference:.2g} "
            f"(largest value {result.largest_velocity:.3g})"
        )


def _report_result(result: Converted, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(result))
        return
    report_check(result)
    click.echo(f"written: {result.path} ({result.kind})")
