"""`musiclora generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

_SYMBOLIC = (
    click.option("--tokenizer", help="Symbolic: arrival, a tokenizer.json or its folder.  [default: the model's own]"),
    click.option(
        "--max-new-tokens",
        type=int,
        help="Symbolic: most tokens to draw; a piece ends on the last bar line.  [default: 1024; with --accompany and "
        "--infill to the end of what is given]",
    ),
    click.option("--temperature", type=float, help="Symbolic: sampling temperature; 0 is greedy.  [default: 1.0]"),
    click.option(
        "--top-p",
        type=float,
        help="Symbolic: nucleus sampling: keep the most probable tokens up to this mass.  [default: 0.95]",
    ),
    click.option(
        "--top-k",
        type=int,
        help="Symbolic: keep the K most probable tokens; 0 keeps all.  [default: 50; 0 for arrival-time tokens]",
    ),
    click.option("--prompt", type=click.Path(path_type=Path), help="Symbolic: MIDI, MusicXML or ABC file to continue."),
    click.option(
        "--prompt-bars",
        type=int,
        help="Symbolic: use only the prompt's first N bars, in its metre.  [default: all]",
    ),
    click.option(
        "--from-end", is_flag=True, default=None, help="Symbolic: --prompt-bars counts the prompt's last bars instead."
    ),
    click.option(
        "--instruments",
        metavar="LIST",
        help="Symbolic, bases of bands: draw only these, such as piano,bass,drums: General MIDI names or numbers from "
        "0; any draws from all.  [default: those of the training songs]",
    ),
    click.option(
        "--accompany",
        type=click.Path(path_type=Path),
        help="Arrival-time tokens: file whose parts stay note for note; the rest is written around them.",
    ),
    click.option(
        "--parts",
        metavar="LIST",
        help="Arrival-time tokens: parts of --accompany that stay: names of tracks, track N or #N, or instruments as "
        "for --instruments.  [default: all]",
    ),
    click.option(
        "--infill",
        type=click.Path(path_type=Path),
        help="Arrival-time tokens: file with a gap to fill; everything outside the gap stays.",
    ),
    click.option(
        "--from-bar", type=int, help="Symbolic: first bar of the gap, counted from 1 by the file's own metres."
    ),
    click.option("--to-bar", type=int, help="Symbolic: last bar of the gap, itself included."),
    click.option("--from-seconds", type=float, help="Symbolic: beginning of the gap, instead of --from-bar."),
    click.option("--to-seconds", type=float, help="Symbolic: end of the gap, instead of --to-bar."),
    click.option(
        "--train-dir",
        type=click.Path(path_type=Path),
        help="Training songs or recordings, to say what of them a piece copies. Audio: also their latents.  [default: "
        "symbolic: the adapter's copy index, which knows no bars]",
    ),
    click.option(
        "--avoid-copying",
        is_flag=True,
        default=None,
        help="Symbolic: draw a piece that copies a training song again, from before the copied passage.",
    ),
)
_AUDIO = (
    click.option(
        "--seconds",
        type=float,
        help="Audio: length in seconds.  [default: DiffRhythm: the longest of the model; ACE-Step: 30; with --repaint "
        "the recording's]",
    ),
    click.option(
        "--steps",
        type=int,
        help="Audio: DiffRhythm: ODE grid points (N - 1 Euler steps); ACE-Step: Euler steps.  [default: DiffRhythm: "
        "32; ACE-Step: 8 for turbo, else 50]",
    ),
    click.option(
        "--guidance",
        type=float,
        help="Audio: classifier-free guidance. DiffRhythm: its strength, the usual scale minus one, 0 for none. "
        "ACE-Step: the usual scale, 1 for none; turbo has none.  [default: the model's own, else 4.0 and 7.0]",
    ),
    click.option("--init-audio", type=click.Path(path_type=Path), help="Audio: recording to continue or to repaint."),
    click.option(
        "--repaint",
        type=(float, float),
        multiple=True,
        metavar="START END",
        help="Audio: seconds to generate again; -1 is the beginning or the end. Repeatable.",
    ),
    click.option("--vae", type=click.Path(path_type=Path), help="Audio: the codec.  [default: the one of the model]"),
)
_DIFFRHYTHM = (
    click.option(
        "--style", help="DiffRhythm: style: a file, words, or adapter.  [default: the adapter's where it has one]"
    ),
    click.option(
        "--negative-style",
        type=click.Path(path_type=Path),
        help="DiffRhythm: style of the unconditional pass.  [default: zeros]",
    ),
)
_ACESTEP = (
    click.option(
        "--caption",
        help="ACE-Step: description of the music, in words.  [default: the adapter's, where it was trained with one]",
    ),
    click.option(
        "--lyrics",
        metavar="FILE|TEXT",
        help="ACE-Step: what is sung: a text file (.txt, .lrc) or the words themselves.  [default: instrumental]",
    ),
    click.option("--bpm", type=int, help="ACE-Step: tempo in quarter notes a minute.  [default: the model chooses]"),
    click.option("--key", metavar="KEY", help="ACE-Step: key, such as 'C major' or F#m.  [default: the model chooses]"),
    click.option("--time-signature", metavar="N/D", help="ACE-Step: metre, such as 3/4.  [default: the model chooses]"),
    click.option("--language", metavar="CODE", help="ACE-Step: language of the lyrics.  [default: en]"),
    click.option(
        "--shift",
        type=float,
        help="ACE-Step: above 1 more of the steps lie near noise.  [default: 3 for turbo, else 1]",
    ),
    click.option("--reference", type=click.Path(path_type=Path), help="ACE-Step: recording whose timbre is taken."),
)


def _family_options(command: Any) -> Any:
    for option in reversed((*_SYMBOLIC, *_AUDIO, *_DIFFRHYTHM, *_ACESTEP)):
        command = option(command)
    return command


@click.command(cls=ManyCommand)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="F.mid, or for audio F.wav or F.flac; with --count, F-001.mid and so on.",
)
@click.option(
    "--watch",
    "watched",
    type=click.Path(path_type=Path),
    help="Symbolic, instead of --output: continue each file that is dropped into this folder, until Ctrl-C.",
)
@click.option("--output-dir", type=click.Path(path_type=Path), help="Folder of the pieces of --watch: NAME-001.mid ...")
@click.option(
    "--model",
    help="bundled, bundled-band, bundled-audio, a Hub id, or a folder.  [default: what the adapter records]",
)
@click.option("--adapter-dir", "adapters", cls=ManyOption, help="Adapters, each PATH or PATH:STRENGTH.")
@click.option(
    "--seed", type=int, default=42, show_default=True, help="Seed of the noise; the same seed gives the same music."
)
@click.option("--count", type=int, default=1, show_default=True, help="Number of pieces.")
@_family_options
@click.option("--compare", is_flag=True, help="Also write the base's version from the same seed, as F-base.mid.")
@overwrite_option
@click.option("--allow-base-mismatch", is_flag=True, help="Use an adapter that was trained on another base.")
@backend_option
@json_option
def generate(
    output: Path | None,
    watched: Path | None,
    output_dir: Path | None,
    model: str | None,
    adapters: tuple[str, ...],
    seed: int,
    count: int,
    compare: bool,
    overwrite: bool,
    allow_base_mismatch: bool,
    backend: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write new music with a base model and any number of adapters."""
    from musiclora.cli.console import console
    from musiclora.jobs import generate as run
    from musiclora.jobs import watch

    _check_targets(output, watched, output_dir, as_json, overwrite)
    with console() as out:
        if watched and output_dir:
            watch(
                watched,
                output_dir,
                model,
                adapters,
                backend,
                say=click.echo,
                compare=compare,
                allow_base_mismatch=allow_base_mismatch,
                reporter=out,
                seed=seed,
                count=count,
                **options,
            )
            return
        made = run(
            output or Path(),
            model,
            adapters,
            backend,
            compare=compare,
            allow_base_mismatch=allow_base_mismatch,
            overwrite=overwrite,
            reporter=out,
            seed=seed,
            count=count,
            **options,
        )
    for text in made.notes:
        note(text)
    if as_json:
        files = [{**file.record(), "line": file.line()} for file in made.files]
        print_json(
            {"backend": made.backend, "base_model": made.base, "seed": seed, "files": files, "notes": list(made.notes)}
        )
        return
    for file in made.files:
        click.echo(file.line())


def _check_targets(
    output: Path | None, watched: Path | None, output_dir: Path | None, as_json: bool, overwrite: bool
) -> None:
    """Refuse a command that says nothing, or two things, about where the pieces go."""
    if watched is None and output_dir is None:
        if output is None:
            raise click.UsageError("Missing option '--output'; or give --watch FOLDER --output-dir DIR.")
        return
    if output is not None:
        raise click.UsageError("--output and --watch: give one of them; --watch writes into --output-dir.")
    if watched is None or output_dir is None:
        raise click.UsageError("--watch FOLDER and --output-dir DIR belong together; give both.")
    if as_json or overwrite:
        option = "--json" if as_json else "--overwrite"
        raise click.UsageError(f"{option}: does not go with --watch, which ends by Ctrl-C and overwrites nothing.")
