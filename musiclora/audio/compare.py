"""Audio part of `musiclora evaluate --generated-dir`: distances between folders of recordings."""

from __future__ import annotations

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
    found = compare_folders(
        request.generated_dir,
        request.reference_dir,
        baseline_dir=request.baseline_dir,
        paired=request.paired,
        picture=request.picture,
        overwrite=request.overwrite,
        reporter=reporter,
    )
    parts: list[ComparisonPart] = [found, *([found.artefacts] if found.artefacts else [])]
    if request.rank:
        parts.append(found.ranked())
    return FolderComparison(tuple(parts))
