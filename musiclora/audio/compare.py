"""Audio part of `musiclora evaluate --generated-dir`: distances between folders of recordings."""

from __future__ import annotations

from musiclora.audio.latent_distance import check_codec, compare_latents, holds_latents
from musiclora.errors import ConfigError
from musiclora.evaluation.compare_folders import compare_folders
from musiclora.evaluation.comparison import ComparisonPart, ComparisonRequest, FolderComparison
from musiclora.progress import Reporter


def compare_recordings(request: ComparisonRequest, reporter: Reporter) -> FolderComparison:
    """Measure generated recordings.

    Raises:
        ConfigError: no folder to compare with.
        MusicLoraError: the folders or the picture do not fit.
    """
    if request.train_dir is not None:
        raise ConfigError("--train-dir: copies are found in MIDI and ABC files; recordings take --reference-dir")
    if request.reference_dir is None:
        raise ConfigError("--generated-dir: there is nothing to compare with; give --reference-dir")
    if request.vae is not None:
        check_codec(request.vae)  # before everything is listened to
    if holds_latents(request):
        return FolderComparison((compare_latents(request, request.reference_dir, reporter),))
    found = compare_folders(
        request.generated_dir,
        request.reference_dir,
        baseline_dir=request.baseline_dir,
        paired=request.paired,
        picture=request.picture,
        overwrite=request.overwrite,
        reporter=reporter,
    )
    parts: list[ComparisonPart] = [found]
    if request.vae is not None:
        parts.append(compare_latents(request, request.reference_dir, reporter))
    if found.artefacts:
        parts.append(found.artefacts)
    if request.rank:
        parts.append(found.ranked())
    return FolderComparison(tuple(parts))
