"""Cards of converted, blended and fused adapters and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora import __version__
from musiclora.adapters import Adapter
from musiclora.conversion.protocols import ModelFusion
from musiclora.conversion.update_arrival import UpdateArrival
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.fingerprint import RECORD
from musiclora.families import FamilySpec
from musiclora.models import BaseModel, card_licence, kept_settings
from musiclora.reporting.model_card import (
    adapter_kind,
    adapter_tags,
    card_body,
    card_header,
    complete_card,
    describe_base,
)
from musiclora.symbolic.decoding.songs_record import merge_songs_records

CARD = "README.md"
_LIBRARIES = {"peft": "peft", "mlx-lm": "mlx"}

_ADAPTER_CARD = """{header}
# A {kind} adapter for {base}

{origin} by musiclora {version}. The licence of its base: {licence}. Whoever shares this adapter answers for the rights
in the music it was trained on.
"""

_MODEL_CARD = """{header}
# {base} with {adapters} fused into it

Fused by musiclora {version}. The licence of the base: {licence}. Whoever shares this model answers for the rights in
the music that the {noun} trained on.
"""


def adapter_card(
    family: FamilySpec,
    origin: str,
    record: Mapping[str, Any],
    *,
    base: str,
    licence: str,
    kind: str = "peft",
    dora: bool = False,
) -> str:
    """Write the card of an adapter.

    Args:
        family: its architecture.
        origin: how it was made, the beginning of a sentence.
        record: content of its musiclora.json.
        base: `bundled`, a Hub id, or "" for a local folder.
        licence: of the base.
        kind: adapter format.
        dora: it has DoRA's magnitudes.
    """
    header = card_header(
        pipeline_tag=family.pipeline_tag,
        tags=adapter_tags(family.card_tag, dora),
        base=base if "/" in base else "",
        licence=licence,
        library=_LIBRARIES.get(kind, ""),
    )
    weights = (record.get("fingerprints") or {}).get("weights") or ""
    card = _ADAPTER_CARD.format(
        header=header,
        kind=adapter_kind(dora),
        base=describe_base(base, weights),
        origin=origin,
        version=__version__,
        licence=licence,
    )
    metrics = record.get("metrics")
    values = metrics.items() if isinstance(metrics, dict) else ()
    scores = [f"* {name}: {value:.4f}" for name, value in values if isinstance(value, float)]
    return "\n".join([card, *scores, ""]) if scores else card


def converted_card(
    source: Path,
    family: FamilySpec,
    record: Mapping[str, Any],
    *,
    base: str,
    licence: str,
    kind: str,
    dora: bool = False,
) -> str:
    """Write the card of a converted adapter: that of another tool completed, else a new one."""
    own = source / CARD
    licence = next((found for found in (card_licence(source), licence) if found not in ("unknown", "other")), "unknown")
    if own.is_file() and "musiclora" not in record:
        text = own.read_text(encoding="utf-8", errors="replace")
        tags = adapter_tags(family.card_tag, dora)
        return complete_card(text, pipeline_tag=family.pipeline_tag, tags=tags, base=base if "/" in base else "")
    return adapter_card(family, f"Converted to {kind}", record, base=base, licence=licence, kind=kind, dora=dora)


def shared_licence(folders: Sequence[Path]) -> str:
    """Read the licence that the cards of several folders state; `unknown` where they differ or name none."""
    found = {card_licence(folder) for folder in folders}
    return found.pop() if len(found) == 1 and "other" not in found else "unknown"


def write_fused_record(fusion: ModelFusion, folder: Path, family: FamilySpec, arrival: UpdateArrival) -> None:
    """Write the record and the card of a fused model into its folder."""
    base = fusion.base
    record = {
        "family": family.family,
        "base_model": base.public_name,
        "base_kind": base.kind,
        "fused": [adapter.strength for adapter in fusion.adapters],
        **kept_settings(base.path),
        **merge_songs_records([adapter.record for adapter in fusion.adapters]),
        **arrival.record(),
    }
    write_json(folder / RECORD, record)
    (folder / CARD).write_text(_fused_card(base, fusion.adapters, family), encoding="utf-8")


def _fused_card(base: BaseModel, adapters: Sequence[Adapter], family: FamilySpec) -> str:
    """Write the card of a fused model, with the text of the base's card below."""
    many = len(adapters) > 1
    kinds = " and ".join(sorted({adapter_kind(bool(adapter.magnitudes)) for adapter in adapters}, reverse=True))
    header = card_header(
        pipeline_tag=family.pipeline_tag,
        tags=("music", family.card_tag),
        base=base.name if base.kind == "hub" else "",
        licence=base.licence,
    )
    card = _MODEL_CARD.format(
        header=header,
        base=base.public_name or "A base",
        adapters=f"{len(adapters)} {kinds} adapters" if many else f"a {kinds} adapter",
        version=__version__,
        licence=base.licence,
        noun="adapters were" if many else "adapter was",
    )
    own = base.path / CARD
    body = card_body(own.read_text(encoding="utf-8", errors="replace")).strip() if own.is_file() else ""
    return f"{card}\n## The card of the base\n\n{body}\n" if body else card
