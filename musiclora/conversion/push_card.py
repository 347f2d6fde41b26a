"""Card of a repository on the Hub, with metadata that the Hub reads: base, licence, task, held-out scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from musiclora.conversion.push_files import CARD, PushFolder
from musiclora.errors import ConfigError
from musiclora.families import FamilySpec
from musiclora.models import card_licence, is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

_LABELS = {"held_out_loss": "loss", "held_out_loss_of_base": "loss of the base"}
_PLACEHOLDER = "THIS_FOLDER"  # in the cards of adapter folders


def hub_card(folder: PushFolder, spec: FamilySpec, repository: str, media: tuple[str, ...]) -> ModelCard:
    """Build the card of a repository from the card of a folder.

    Args:
        folder: what is sent.
        spec: its architecture.
        repository: OWNER/NAME.
        media: names of the sample's files in the repository.

    Raises:
        ConfigError: the metadata are none that the Hub takes.
    """
    from huggingface_hub import ModelCard, ModelCardData

    own = folder.path / CARD
    text = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else f"# {repository}\n"
    card = ModelCard(text, ignore_metadata_errors=True)
    known = card.data.to_dict()
    base = _public_base(folder, known)
    licence = card_licence(folder.path)
    unknown = licence in ("unknown", "other") and not known.get("license_name")
    try:
        data = ModelCardData(
            model_name=repository.partition("/")[2],
            base_model=base,
            library_name=_library(folder, known),
            license="other" if licence == "unknown" else licence,
            license_name=known.get("license_name") or ("unknown" if unknown else None),
            license_link=known.get("license_link") or (f"https://huggingface.co/{base}" if unknown and base else None),
            pipeline_tag=spec.pipeline_tag,
            tags=_tags(folder, spec, known),
            eval_results=_scores(folder, spec) or None,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the card's metadata: {error}") from error
    body = card.text.strip().replace(_PLACEHOLDER, repository)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n{_media_section(media)}")


def _public_base(folder: PushFolder, known: dict[str, Any]) -> str | None:
    """Return the Hub id of the base; None where it has none."""
    named = known.get("base_model") or folder.record.get("base_model") or ""
    if isinstance(named, list):
        named = named[0] if named else ""
    name = str(named).partition("@")[0]
    if folder.record.get("base_kind", "hub") != "hub" or not is_hub_id(name) or "/" not in name:
        return None
    return name


def _library(folder: PushFolder, known: dict[str, Any]) -> str | None:
    if folder.kind == "adapter":
        return "peft"
    return str(known["library_name"]) if known.get("library_name") else None


def _tags(folder: PushFolder, spec: FamilySpec, known: dict[str, Any]) -> list[str]:
    given = known.get("tags") or []
    kind = ["lora"] if folder.kind == "adapter" else []
    return list(dict.fromkeys(["musiclora", "music", *kind, spec.card_tag, *map(str, given)]))


def _scores(folder: PushFolder, spec: FamilySpec) -> list[EvalResult]:
    """Return the held-out scores of the record as the Hub's model-index."""
    from huggingface_hub import EvalResult

    pieces = spec.data.partition(" ")[0]
    common = {"task_type": spec.pipeline_tag, "dataset_type": "held-out", "dataset_name": f"held-out {pieces}"}
    metrics = folder.record.get("metrics")
    found = [
        EvalResult(**common, metric_type="loss", metric_name=_LABELS[name], metric_value=round(float(value), 4))
        for name, value in (metrics.items() if isinstance(metrics, dict) else ())
        if name in _LABELS and isinstance(value, int | float)
    ]
    gain = folder.record.get("gain")
    if isinstance(gain, dict) and isinstance(gain.get("mean"), int | float):
        name = f"gain over the base, {gain.get('unit', 'loss')}"
        found.append(EvalResult(**common, metric_type="gain", metric_name=name, metric_value=round(gain["mean"], 4)))
    return found


def _media_section(media: tuple[str, ...]) -> str:
    if not media:
        return ""
    lines = ["", "## A sample", ""]
    for name in media:
        if name.endswith(".png"):
            lines.append(f"![Piano roll of a sample]({name})")
        elif name.endswith((".wav", ".flac")):
            lines.append(f'<audio controls src="{name}"></audio>')
        else:
            lines.append(f"[{name}]({name})")
    return "\n\n".join(["", *lines[1:]]) + "\n"
