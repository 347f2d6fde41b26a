"""Public API of `musiclora evaluate --generated-dir`: comparison of folders of music."""

from __future__ import annotations

from musiclora.evaluation.comparison import ComparisonRequest, FolderComparison
from musiclora.families import FamilySpec, refuse_foreign, resolve, spec_of_data, spec_of_family
from musiclora.progress import Reporter


def compare(request: ComparisonRequest, reporter: Reporter | None = None) -> FolderComparison:
    """Measure generated music against real music, the training music, or both.

    Args:
        request: the folders.
        reporter: told what happens.

    Raises:
        MusicLoraError: a folder is missing, holds nothing that can be measured, or music of another family.
    """
    spec = _spec_of(request)
    refuse_foreign(spec, str(request.generated_dir), {"vae": request.vae})
    found: FolderComparison = resolve(spec.compare)(request, reporter or Reporter())
    return found


def _spec_of(request: ComparisonRequest) -> FamilySpec:
    """Find the family of the generated music, else of the folder it is compared with.

    A folder may hold notes and their sound; the others then tell which are meant.
    """
    folders = (request.generated_dir, request.train_dir, request.reference_dir)
    found = (spec_of_data(folder) for folder in folders if folder and folder.exists())
    return next((spec for spec in found if spec), spec_of_family("audio"))
