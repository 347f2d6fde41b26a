"""Identity of ACE-Step's condition encoder, which conditions in a latents folder record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.convert.files.fingerprint import fingerprint_tensors
from musiclora.convert.models.acestep import read_acestep, tensor_shapes
from musiclora.convert.models.acestep_names import ENCODER, SILENCE
from musiclora.errors import DataError
from musiclora.models import BaseModel

ENCODER_KEY = "condition_encoder"  # of an index entry


def condition_encoder_fingerprint(model: Path) -> str:
    """Hash the condition encoder's tensors and the silence that it hears where there is no reference."""
    checkpoint = read_acestep(model)
    names = [n for n in tensor_shapes(checkpoint.config) if n.startswith(ENCODER) or n == SILENCE]
    return fingerprint_tensors(checkpoint.tensors(names))


def check_condition_encoder(items: Sequence[Mapping[str, Any]], base: BaseModel, folder: Path) -> None:
    """Compare the encoder that made the conditions of a latents folder with a model's.

    Args:
        items: index entries; those that record no encoder are not compared.
        base: the model.
        folder: the latents folder, for the message.

    Raises:
        DataError: conditions of another model.
    """
    recorded = {str(item[ENCODER_KEY]) for item in items if item.get(ENCODER_KEY)}
    if not recorded:
        return
    own = condition_encoder_fingerprint(base.path)
    if others := sorted(recorded - {own}):
        raise DataError(
            f"{folder}: its conditions were computed by another model's encoder (recorded {others[0][:8]}, that of "
            f"{base.name} is {own[:8]}); run musiclora preprocess again with this model"
        )
