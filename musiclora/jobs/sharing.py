"""Public API of `musiclora push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.progress import Reporter

if TYPE_CHECKING:
    from musiclora.conversion.push import PushResult


def push(
    folder: str,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    sample: Path | None = None,
    reporter: Reporter | None = None,
) -> PushResult:
    """Send an adapter or a model to the Hugging Face Hub; see `conversion.push.push_folder`."""
    from musiclora.conversion.push import push_folder

    return push_folder(folder, repository, private=private, dry_run=dry_run, sample=sample, reporter=reporter)
