"""Architecture of the model that a piece is made with, and the options that it has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from musiclora.bundled import BUNDLED_MODELS
from musiclora.convert.adapters.lora import state_modules
from musiclora.convert.adapters.peft import read_peft
from musiclora.errors import MusicLoraError
from musiclora.families import SPECS, FamilySpec, spec_of_folder, spec_of_modules
from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace


def find_architecture(workspace: Workspace, base: str | None, adapters: Sequence[str]) -> FamilySpec | None:
    """Find the architecture of a base, or of the first adapter; None where nothing here tells.

    Args:
        workspace: the page's folder.
        base: a bundled model, a folder or a Hub id; empty for the one that the adapters record.
        adapters: their labels.
    """
    name = (base or "").strip()
    if name in BUNDLED_MODELS:
        return spec_of_folder(BUNDLED_MODELS[name])
    with suppress(MusicLoraError, OSError):
        return spec_of_folder(workspace.inside(name, "base"))
    for label in adapters:
        with suppress(MusicLoraError, OSError):
            return adapter_architecture(workspace.inside(label, "adapter"))
    return None


def adapter_architecture(folder: Path) -> FamilySpec:
    """Find the architecture of an adapter by its modules.

    Raises:
        ConvertError: the folder holds no adapter that is known here.
    """
    return spec_of_modules(state_modules(read_peft(folder).state), str(folder))


def fields_for(fields: Sequence[OptionField], spec: FamilySpec | None) -> list[OptionField]:
    """Return the options that an architecture has; all of them where it is not known."""
    if spec is None:
        return list(fields)
    foreign = {name for other in SPECS for name in other.options} - set(spec.options)
    return [field for field in fields if field.name not in foreign]
