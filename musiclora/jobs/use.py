"""Public API of `musiclora generate` and `evaluate`: the use of models and adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from musiclora.errors import ConfigError
from musiclora.families import SPECS, check_data_exists, refuse_other_data, resolve
from musiclora.generation_result import GenerationOptions, GenerationResult
from musiclora.jobs.models import spec_and_options
from musiclora.progress import Reporter

if TYPE_CHECKING:
    from musiclora.evaluation.verdict import Evaluation


def generate(
    output: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    compare: bool = False,
    allow_base_mismatch: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Unpack[GenerationOptions],
) -> GenerationResult:
    """Write new music with a base model and any number of adapters.

    Args:
        output: the file to write; several pieces become `F-001.mid` and so on.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        compare: also write the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        overwrite: replace files that exist.
        reporter: told what happens.
        options: of the pieces; those of another family than the model's are refused.

    Raises:
        MusicLoraError: the options, the model or the adapters do not fit.
    """
    spec, given = spec_and_options(model, adapters, options)
    result: GenerationResult = resolve(spec.generate)(
        output,
        given,
        model=model,
        adapters=adapters,
        backend=backend,
        compare=compare,
        allow_base_mismatch=allow_base_mismatch,
        overwrite=overwrite,
        reporter=reporter,
    )
    return result


def watch(
    folder: Path,
    output_dir: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    say: Callable[[str], None],
    compare: bool = False,
    allow_base_mismatch: bool = False,
    reporter: Reporter | None = None,
    **options: Unpack[GenerationOptions],
) -> None:
    """Continue every MIDI file that is dropped into a folder, until Ctrl-C.

    Args:
        folder: where files are dropped.
        output_dir: where the pieces are written, under names that no file has.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        say: told each line of a result.
        compare: also write the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        reporter: told what happens.
        options: of the pieces; those of another family than the model's are refused.

    Raises:
        MusicLoraError: the folders, the options, the model or the adapters do not fit.
    """
    spec, given = spec_and_options(model, adapters, options)
    if spec.watch is None:
        raise ConfigError(f"--watch: {spec.title} continues no MIDI files; it is for bases of {SPECS[0].data}")
    resolve(spec.watch)(
        folder,
        output_dir,
        given,
        say,
        model=model,
        adapters=adapters,
        backend=backend,
        compare=compare,
        allow_base_mismatch=allow_base_mismatch,
        reporter=reporter,
    )


def evaluate(
    data_dir: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    max_seq_len: int | None = None,
    allow_base_mismatch: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
    tokenizer: str | None = None,
    vae: Path | None = None,
) -> Evaluation:
    """Score every song of a folder.

    Args:
        data_dir: music or recordings, or a cache that `preprocess` wrote.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        max_seq_len: longest row in tokens or frames.
        allow_base_mismatch: use an adapter although its base differs.
        workers: processes that read music.
        reporter: told what happens.
        tokenizer: of the symbolic family: instead of the model's own.
        vae: of the audio family: the codec instead of the model's.

    Raises:
        MusicLoraError: the folder, the model or the adapters do not fit.
    """
    check_data_exists(Path(data_dir))  # before a model is looked for, which may mean a download
    spec, given = spec_and_options(model, adapters, {"tokenizer": tokenizer, "vae": vae})
    refuse_other_data(Path(data_dir), spec.family, model or "the adapter's base")
    found: Evaluation = resolve(spec.evaluate)(
        Path(data_dir),
        model,
        adapters,
        backend,
        max_seq_len=max_seq_len,
        allow_base_mismatch=allow_base_mismatch,
        workers=workers,
        reporter=reporter,
        **given,
    )
    return found
