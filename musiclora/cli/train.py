"""`musiclora train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musiclora.cli.common import BACKEND_CHOICES, ManyCommand, ManyOption, json_option, print_json

if TYPE_CHECKING:
    from musiclora.training.config import TrainConfig


@click.command(cls=ManyCommand)
@click.option("--data-dir", help="Folder of songs (MIDI, MusicXML, ABC) or of recordings, or the output of preprocess.")
@click.option("--output-dir", help="Run folder; resumes an unfinished run in it.")
@click.option(
    "--model",
    help="bundled, bundled-band, bundled-audio, a Hub id (owner/name[@revision]), or a folder.  "
    "[default: xingjianll/midi-gpt2]",
)
@click.option(
    "--adapter-dir", help="Adapter to train further: training starts from its arrays, with its rank, alpha and targets."
)
@click.option("--tokenizer", help="Symbolic: arrival, a tokenizer.json or its folder.  [default: the model's own]")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with these options.",
)
@click.option(
    "--preset",
    help="Options that go together: artist, bundled, capacity, conservative or flavor; see --list-presets.",
)
@click.option("--list-presets", is_flag=True, help="List the presets and what each does, and stop.")
@click.option("--max-seq-len", type=int, help="Longest row in tokens or frames.  [default: 1024, at most what fits]")
@click.option("--batch-size", type=int, help="Rows in one forward pass.  [default: planned]")
@click.option("--grad-accum-steps", type=int, help="Passes in one optimiser step.  [default: planned]")
@click.option("--epochs", type=int, help="Passes over the songs.  [default: planned]")
@click.option("--max-steps", type=int, help="Stop after N optimiser steps.")
@click.option("--lr", type=float, help="Peak learning rate.  [default: 1e-3; audio: 2e-4]")
@click.option("--weight-decay", type=float, help="AdamW's decoupled weight decay.  [default: 0.01]")
@click.option("--lr-schedule", help="Schedule after the warm-up: cosine, linear or constant.  [default: cosine]")
@click.option("--warmup-steps", type=int, help="Optimiser steps of linear warm-up.  [default: a tenth, at most 100]")
@click.option("--max-grad-norm", type=float, help="Clip gradients to this global norm; 0 turns it off.  [default: 1.0]")
@click.option("--val-split", type=float, help="Share of the songs held out; 0 trains on all.  [default: 0.1]")
@click.option(
    "--folds",
    type=int,
    help="Cross-validate: hold out each song once, in K runs, then train on all songs for the steps that these choose. "
    "Recommended for 20 songs or fewer.",
)
@click.option(
    "--patience", type=int, help="Stop after N epochs without a better held-out loss.  [default: 10; audio: 200]"
)
@click.option("--lora-r", type=int, help="LoRA rank.  [default: 16; audio: 8]")
@click.option("--lora-alpha", type=float, help="LoRA alpha.  [default: twice the rank]")
@click.option("--lora-dropout", type=float, help="LoRA dropout.  [default: 0.05; audio: 0.25]")
@click.option(
    "--target-modules",
    cls=ManyOption,
    help="Names of the modules to adapt.  [default: c_attn c_proj c_fc; audio: attention, times, output]",
)
@click.option(
    "--use-dora", is_flag=True, default=None, help="Also train the lengths of the weights' rows (DoRA); slower."
)
@click.option("--use-rslora", is_flag=True, default=None, help="Scale by alpha / sqrt(rank), not alpha / rank.")
@click.option("--lora-plus-ratio", type=float, help="LoRA+: learning rate of B over that of A.  [default: 1]")
@click.option(
    "--dtype", help="Frozen base in float32, bfloat16 or float16.  [default: float32; audio on a GPU: bfloat16]"
)
@click.option(
    "--grad-checkpointing/--no-grad-checkpointing",
    default=None,
    help="Recompute activations: less memory, a third more time.  [default: off; audio: on]",
)
@click.option("--num-workers", type=int, help="Worker processes that read music.  [default: the processor's cores]")
@click.option("--mix-dir", help="Symbolic: folder of further music to train on, so that the style stays a flavour.")
@click.option("--mix-ratio", type=float, help="Symbolic: share of the training tokens from --mix-dir.  [default: 0.25]")
@click.option("--weigh", help="What counts the same in training: tokens, or songs of any length.  [default: tokens]")
@click.option(
    "--transpose", type=int, help="Symbolic: transpose each song at random by up to N semitones.  [default: 0]"
)
@click.option(
    "--anticipation",
    type=float,
    help="Arrival-time tokens: share of the rows with some events given in advance.  [default: 0.9]",
)
@click.option(
    "--style", help="DiffRhythm: style of all recordings: a file, or words.  [default: theirs, or a trained vector]"
)
@click.option(
    "--caption",
    help="ACE-Step: describes every recording.  [default: dataset.json, the text beside each, or the folder's name]",
)
@click.option("--vae", help="Audio: codec that encodes the recordings.  [default: the model's own]")
@click.option("--sample-every", type=int, help="Write a sample every N epochs; 0 writes none.  [default: 0]")
@click.option(
    "--stop-when-copying",
    is_flag=True,
    default=None,
    help="Look at samples at about 20 evaluations, and end the run when they copy training songs or recordings.",
)
@click.option(
    "--report-to",
    metavar="LIST",
    help="Experiment trackers that are told what metrics.jsonl holds, and samples: trackio, tensorboard, wandb.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan with time and memory, and stop; nothing is written.")
@click.option("--restart", is_flag=True, help="Start again and keep the old run as a backup.")
@click.option(
    "--allow-base-mismatch", is_flag=True, default=None, help="Train even if the base does not know these tokens."
)
@click.option("--seed", type=int, help="Seed of the split, the order, the adapter and its dropout.  [default: 42]")
@click.option(
    "--backend", type=BACKEND_CHOICES, help="Framework that computes; auto prints its choice.  [default: auto]"
)
@json_option
def train(
    config_file: Path | None,
    preset: str | None,
    list_presets: bool,
    dry_run: bool,
    restart: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Adapt a base model to a folder of music, or of recordings, with LoRA.

    The model decides which of the two it learns. Options that are not given are planned from the data, and the plan
    is printed first. Ctrl-C saves the run; the same command resumes it.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import train as run
    from musiclora.training.config import resolve_config

    if list_presets:
        _print_presets(as_json)
        return
    options["target_modules"] = options["target_modules"] or None
    config = resolve_config(options, preset, config_file)
    if dry_run:
        _print_plan(config, as_json)
        return
    with console() as out:
        result = run(config, out, restart)
    for line in result.lines():
        click.echo(line, err=as_json)
    if as_json:
        print_json(result.as_json())
    else:
        click.echo(f"report: {result.report}")
        click.echo(f"adapter: {result.run_dir / 'adapter-best'}")
        click.echo(
            f"next: musiclora generate --adapter-dir {result.run_dir / 'adapter-best'} --output {result.example}"
        )


def _print_plan(config: TrainConfig, as_json: bool) -> None:
    from dataclasses import asdict

    from musiclora.cli.console import console
    from musiclora.jobs import plan

    with console() as out:
        found = plan(config, out)
    if as_json:
        print_json({**asdict(found), "lines": found.lines()})


def _print_presets(as_json: bool) -> None:
    from musiclora.training.config import list_presets

    found = list_presets()
    if as_json:
        print_json({"presets": found})
        return
    width = max(map(len, found))
    for name, description in found.items():
        click.echo(f"{name:{width}}  {description}")
