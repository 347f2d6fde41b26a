"""Arguments and result of a generation, and the checks that every family makes of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from musiclora.convert.files.outputs import check_outputs, check_writable
from musiclora.errors import ConfigError, option_name
from musiclora.formats import BASE_MARK, output_paths
from musiclora.progress import Reporter

MOST_PIECES = 10_000  # of one command
MOST_SEED = 2**63 - 1


class GenerationSetup(TypedDict, total=False):
    """Arguments of a generation that both families take, as `jobs.generate` describes them."""

    model: str | None
    adapters: Sequence[str]
    backend: str
    compare: bool
    allow_base_mismatch: bool
    overwrite: bool
    reporter: Reporter | None


class GenerationOptions(TypedDict, total=False):
    """Options of a generation; one that is left out, or None, has the default of the model's family.

    Attributes:
        seed, count: of every family: piece i of one seed is the same for every count.
        tokenizer, max_new_tokens, temperature, top_p, top_k, prompt, prompt_bars, from_end: of the symbolic family, see
            `symbolic.decoding.request.GenerationRequest`.
        instruments, accompany, parts, infill, from_bar, to_bar, from_seconds, to_seconds: of the symbolic family, see
            `symbolic.given_music.GivenMusic`.
        train_dir: of every family: folder of the training songs or recordings, to measure copies of.
        avoid_copying: of the symbolic family: draw again what copies them.
        seconds, steps, guidance, init_audio, repaint, vae: of the audio family; with style and negative_style of
            DiffRhythm, see `audio.diffrhythm.sampling.FlowRequest`.
        caption, lyrics, bpm, key, time_signature, language, shift, reference: of ACE-Step, see
            `audio.acestep.request.AceStepRequest`.
    """

    seed: int | None
    count: int | None
    tokenizer: str | None
    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    prompt: Path | None
    prompt_bars: int | None
    from_end: bool | None
    instruments: str | None
    accompany: Path | None
    parts: str | None
    infill: Path | None
    from_bar: int | None
    to_bar: int | None
    from_seconds: float | None
    to_seconds: float | None
    train_dir: Path | None
    avoid_copying: bool | None
    seconds: float | None
    steps: int | None
    guidance: float | None
    style: str | None
    negative_style: Path | None
    init_audio: Path | None
    repaint: tuple[tuple[float, float], ...]
    vae: Path | None
    caption: str | None
    lyrics: str | None
    bpm: int | None
    key: str | None
    time_signature: str | None
    language: str | None
    shift: float | None
    reference: Path | None


class GeneratedFile(Protocol):
    """File that a generation wrote."""

    @property
    def path(self) -> Path:
        """Location of the file."""

    @property
    def kind(self) -> str:
        """`adapted`, or `base` for a model without adapter."""

    def record(self) -> dict[str, Any]:
        """Build the file's entry for `--json`."""

    def line(self) -> str:
        """Format the file as one line of text."""


@dataclass(frozen=True)
class GenerationResult:
    """Files of one generation.

    Attributes:
        backend: name of the backend that computed them.
        base: name of the base model.
        files: written files, in order.
        notes: remarks for the user.
    """

    backend: str
    base: str
    files: Sequence[GeneratedFile]
    notes: tuple[str, ...]


def complete_output(output: Path, suffixes: Sequence[str], aliases: Sequence[str] = ()) -> Path:
    """Add the first suffix to a name without one, and check the name.

    Args:
        output: value of `--output`.
        suffixes: suffixes that the family writes, lower case.
        aliases: other suffixes that are accepted.

    Raises:
        ConfigError: another suffix, a folder, or a place that cannot be written.
    """
    if not output.suffix and output.name and not output.is_dir():
        output = output.with_suffix(suffixes[0])
    if output.suffix.lower() not in (*suffixes, *aliases) or output.is_dir():
        raise ConfigError(f"--output {output}: expected a file name that ends in {' or '.join(suffixes)}")
    check_writable(output, "--output")
    return output


def check_output_names(
    output: Path, count: int, compare: bool, inputs: Mapping[str, Path | str | None], *, overwrite: bool
) -> None:
    """Check every file name that a generation will write, before anything is loaded.

    Raises:
        ConfigError: one of them is an input, or exists and `--overwrite` is not given.
    """
    marks = ("", BASE_MARK) if compare else ("",)
    names = [path for mark in marks for path in output_paths(output, count, mark)]
    check_outputs("--output", names, inputs, overwrite=overwrite)


def check_comparison(compare: bool, adapters: Sequence[str]) -> None:
    """Refuse to compare the base with itself.

    Raises:
        ConfigError: `--compare` without an adapter.
    """
    if compare and not adapters:
        raise ConfigError("--compare: there is no adapter to compare the base with; give --adapter-dir")


def options_outside(request: object, bounds: Sequence[tuple[str, float, float]]) -> list[str]:
    """List the numeric options of a request that are not finite or lie outside their bounds.

    Args:
        request: object with one attribute for each option.
        bounds: attribute, least and largest value of each option.
    """
    problems = options_below(request, ((name, least) for name, least, _ in bounds))
    above = [(name, most) for name, _, most in bounds if most < getattr(request, name) < float("inf")]
    return problems + [
        f"{option_name(name)} is {getattr(request, name)}; it must be at most {most}" for name, most in above
    ]


def options_below(request: object, minima: Iterable[tuple[str, float]]) -> list[str]:
    """List the numeric options of a request that are not finite or lie below their minimum.

    Args:
        request: object with one attribute for each option.
        minima: attribute and least value of each option.
    """
    problems = []
    for name, least in minima:
        value = getattr(request, name)
        if not least <= value < float("inf"):
            problems.append(f"{option_name(name)} is {value}; it must be at least {least}")
    return problems
