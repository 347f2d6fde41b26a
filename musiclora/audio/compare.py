"""Audio part of `musiclora evaluate --generated-dir`: copies, and distances between folders of recordings."""

from __future__ import annotations

from musiclora.audio.copying import measure_audio_copies
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
    if request.train_dir is None and request.reference_dir is None:
        raise ConfigError("--generated-dir: there is nothing to compare with; give --reference-dir or --train-dir")
    if request.reference_dir is None and (request.baseline_dir or request.paired or request.rank or request.picture):
        raise ConfigError("--baseline-dir, --paired, --rank and --picture need --reference-dir")
    if request.vae is not None:
        check_codec(request.vae)  # before everything is listened to
    parts: list[ComparisonPart] = []
    if request.train_dir is not None:
        parts.append(
            measure_audio_copies(request.generated_dir, request.train_dir, request.reference_dir, reporter=reporter)
        )
    if request.reference_dir is None:
        return FolderComparison(tuple(parts))
    if holds_latents(request):
        return FolderComparison((*parts, compare_latents(request, request.reference_dir, reporter)))
    found = compare_folders(
        request.generated_dir,
        request.reference_dir,
        baseline_dir=request.baseline_dir,
        paired=request.paired,
        picture=request.picture,
        overwrite=request.overwrite,
        reporter=reporter,
    )
    parts.append(found)
    if request.vae is not None:
        parts.append(compare_latents(request, request.reference_dir, reporter))
    if found.artefacts:
        parts.append(found.artefacts)
    if request.rank:
        parts.append(found.ranked())
    return FolderComparison(tuple(parts))
