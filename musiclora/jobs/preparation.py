"""Public API of `musiclora preprocess`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from musiclora.convert.files.outputs import check_apart, check_folder
from musiclora.families import refuse_foreign, resolve, spec_of_family, spec_of_folder
from musiclora.jobs.models import JobResult, drop_missing, find_model_for
from musiclora.progress import Reporter
from musiclora.training.config import DEFAULT_MODEL


class PreprocessResult(JobResult, Protocol):
    """Result of `preprocess`."""

    def notes(self) -> Sequence[str]:
        """List what the user should know."""


def preprocess(
    data_dir: Path,
    output_dir: Path,
    model: str | None = None,
    backend: str = "auto",
    *,
    seed: int = 42,
    num_workers: int | None = None,
    reporter: Reporter | None = None,
    tokenizer: str | None = None,
    vae: Path | None = None,
    style: str | None = None,
    posterior: str | None = None,
    caption: str | None = None,
    estimates: bool | None = None,
) -> PreprocessResult:
    """Tokenise or encode a folder once; `train` and `evaluate` accept the result in its place.

    Args:
        data_dir: music, or recordings.
        output_dir: the token cache, or the latents folder.
        model: model whose tokenizer or codec is used; None is the default base.
        backend: `auto`, `mlx` or `torch`; only the audio family computes.
        seed: of the posterior's samples.
        num_workers: processes that read and tokenise.
        reporter: told what happens.
        tokenizer: of the symbolic family: instead of the model's own, which is then not needed.
        vae, posterior: of the audio family.
        style: of DiffRhythm; see `audio.diffrhythm.preprocess.preprocess_recordings`.
        caption, estimates: of ACE-Step; see `audio.acestep.preprocess.preprocess_recordings`.

    Raises:
        MusicLoraError: the folder, the model or the options do not fit.
    """
    check_apart(output_dir, {"--data-dir": data_dir})
    check_folder(output_dir)
    name = model or DEFAULT_MODEL
    options = {
        "tokenizer": tokenizer,
        "vae": vae,
        "style": style,
        "posterior": posterior,
        "caption": caption,
        "estimates": estimates,
    }
    # A tokenizer that is named needs no model, hence none that has to be fetched.
    spec = spec_of_family("symbolic") if tokenizer else spec_of_folder(find_model_for(data_dir, name))
    refuse_foreign(spec, name, options)
    result: PreprocessResult = resolve(spec.preprocess)(
        data_dir,
        output_dir,
        name,
        reporter or Reporter(),
        backend=backend,
        seed=seed,
        num_workers=num_workers,
        **drop_missing(options),
    )
    return result
