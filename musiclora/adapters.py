"""Adapters on disk: reading, and checking against their base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends.base import Model
from musiclora.convert.adapters.combine import combine_adapters
from musiclora.convert.adapters.combine_dora import WholePart, combine_with_dora
from musiclora.convert.adapters.lora import LoraSpec, state_modules
from musiclora.convert.adapters.lora_adapter import EMBEDDINGS, make_uniform
from musiclora.convert.adapters.lora_math import has_row_lengths
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.fingerprint import compare_fingerprints, matches_by_source
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.files.safetensors_file import Arrays
from musiclora.errors import ConfigError, ConvertError, join_problems
from musiclora.families import checkpoint_fingerprint, resolve, spec_of_folder, spec_of_modules
from musiclora.formats import expand_home
from musiclora.models import NO_FOLDER, BaseModel, fetch_from_hub, find_model, locate_base, name_argument, recorded_base


def parse_adapter(text: str, option: str = "--adapter-dir") -> tuple[str, float]:
    """Split `PATH:STRENGTH`; without a strength it is 1.

    The strength is the text after the last colon if that is a number and the whole text is no existing path.

    Args:
        text: value of the option.
        option: what the user gave it as, for messages; "" for an argument.

    Raises:
        ConfigError: a strength that is not finite, or nothing before it.
    """
    path, colon, number = text.rpartition(":")
    if not colon or expand_home(text).exists():
        return text, 1.0
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0
    if not path or not np.isfinite(strength):
        given = name_argument(option, text)
        raise ConfigError(f"{given}: expected PATH or PATH:STRENGTH with a finite strength such as 0.5")
    return path, strength


@dataclass(frozen=True)
class Adapter:
    """Adapter on disk.

    Attributes:
        path: its folder.
        strength: multiplier of its update.
        spec, state: settings and arrays; ranks made uniform.
        base_model: the base it names.
        record: musiclora.json, empty for adapters of other tools.
        magnitudes: of a DoRA adapter, one vector a module; else empty.
        embeddings: whole tensors that PEFT saved with it, by name; `check_base` compares them with the base's.
    """

    path: Path
    strength: float
    spec: LoraSpec
    state: dict[str, Any]
    base_model: str
    record: dict[str, Any]
    magnitudes: dict[str, Any] = field(default_factory=dict)
    embeddings: dict[str, Any] = field(default_factory=dict)


def find_adapter(name: str, strength: float = 1.0, *, option: str = "--adapter-dir") -> Adapter:
    """Read an adapter folder or Hub id.

    Raises:
        ConfigError: it cannot be found.
        ConvertError: it cannot be read as a LoRA adapter.
    """
    path = expand_home(name)
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (path / "adapter-best").is_dir():
        path = path / "adapter-best"  # a run folder was given: its best adapter is meant
    if not path.is_dir():
        if path.exists():
            raise ConfigError(f"{name_argument(option, name)}: is a file; give the adapter's folder")
        path = fetch_from_hub(name, option, NO_FOLDER)
    refuse_model_folder(path, name, option)
    adapter = read_peft(path)
    spec, state = make_uniform(adapter)
    base, record = adapter.base_model, adapter.record
    return Adapter(path, strength, spec, state, base, record, adapter.magnitudes, adapter.embeddings)


def refuse_model_folder(path: Path, name: str, option: str) -> None:
    """Refuse a model's folder where an adapter is wanted.

    Raises:
        ConfigError: the folder holds config.json and no file of an adapter.
    """
    if (path / "config.json").is_file() and not any(
        file.name.startswith(("adapter", "pytorch_lora")) for file in path.iterdir()
    ):
        given = name_argument(option, name)
        raise ConfigError(f"{given}: is a model's folder, not an adapter's; a model is given as --model")


def note_empty_update(
    name: str, state: Arrays, magnitudes: Arrays | None = None, base: BaseModel | None = None
) -> list[str]:
    """Return a remark where an adapter changes nothing: all its matrices B are zero.

    Args:
        name: the adapter's, for the remark.
        state: its arrays.
        magnitudes: of a DoRA adapter, which may change the base without B.
        base: its base, whose weights tell if those magnitudes change it; None leaves that open.
    """
    if any(np.any(array) for key, array in state.items() if key.endswith(".lora_B.weight")):
        return []
    if magnitudes:
        if base is None or not _has_row_lengths(magnitudes, base):
            return []
        same = "all its matrices B are zero and its magnitudes are the base's, as before training"
        return [f"{name}: this adapter changes nothing: {same}"]
    return [f"{name}: this adapter changes nothing: all its matrices B are zero, as before training"]


def _has_row_lengths(magnitudes: Arrays, base: BaseModel) -> bool:
    spec = spec_of_folder(base.path)
    tensors = resolve(spec.read_checkpoint)(base.path).tensors()
    return has_row_lengths(magnitudes, tensors, conv1d=spec.fan_in_fan_out)


def training_songs(adapters: Sequence[Adapter]) -> set[str]:
    """Collect the hashes of the songs that adapters record as trained on; empty for adapters that record none."""
    return {song for adapter in adapters for song in recorded_songs(adapter.record)}


def recorded_songs(record: Mapping[str, Any]) -> set[str]:
    """Return the hashes of the songs that an adapter's record states as trained on."""
    recorded = record.get("trained_on")
    return {text for text in recorded if isinstance(text, str)} if isinstance(recorded, list) else set()


def refuse_other_family(where: str, modules: Iterable[str], base: BaseModel) -> None:
    """Refuse a base of another architecture than an adapter's.

    Args:
        where, modules: as for `spec_of_modules`.
        base: a folder that states no known architecture is left to its reader.

    Raises:
        ConvertError: the architectures differ.
    """
    own = spec_of_modules(modules, where)
    stated = read_optional_json(base.path / "config.json").get("model_type")
    other = spec_of_folder(base.path)
    if other is not own and (stated == other.architecture or (stated is None and other.owns_folder)):
        kinds = [f"of the {s.family} family" if own.family != other.family else s.title for s in (own, other)]
        verb = "" if own.family != other.family else "is "
        mismatch = f"its base is {kinds[0]}, and {base.name} {verb}{kinds[1]}; give its own base as --model"
        raise ConvertError(f"{where}: {mismatch}")


def check_base(adapter: Adapter, base: BaseModel, allow_mismatch: bool = False) -> list[str]:
    """Compare the base at hand with the one that an adapter was trained on.

    Returns:
        Notes for the user: parts that differ but were allowed to, or that nothing was recorded.

    Raises:
        ConvertError: a base of another family, the recorded fingerprint differs and allow_mismatch is off, or saved
            embeddings differ.
    """
    refuse_other_family(str(adapter.path), state_modules(adapter.state), base)
    notes = _check_embeddings(adapter, base)
    recorded = adapter.record.get("fingerprints")
    if not recorded:
        unknown = f"no fingerprint of its base is recorded; cannot tell whether {base.name} is right"
        return [*notes, f"{adapter.path.name}: {unknown}"]
    actual = checkpoint_fingerprint(base.path)
    differing = compare_fingerprints(recorded, actual)
    if not differing:
        same = f"{adapter.path.name}: {base.name} is a conversion of the base that it was trained on, or the reverse"
        return [*notes, same] if matches_by_source(recorded, actual) else notes
    reason = _compare_kinds(adapter, base) or f"{', '.join(differing)} differ"
    text = f"{adapter.path}: trained on another base than {base.name}: {reason}"
    if not allow_mismatch:
        kind, name = recorded_base(adapter.base_model, adapter.record)
        wanted = f"give --model {name}" if kind != "local" else f"give {_describe_base(adapter)} as --model"
        raise ConvertError(f"{text}; {wanted}, or --allow-base-mismatch to use it all the same")
    return [*notes, text]


def _compare_kinds(adapter: Adapter, base: BaseModel) -> str:
    """Say that an adapter was trained on another kind of checkpoint, such as turbo; empty where nothing tells."""
    recorded = adapter.record.get("kind")
    kind = resolve(spec_of_folder(base.path).model_facts)(base.path).get("kind") if isinstance(recorded, str) else None
    return "" if kind in (None, recorded) else f"it was trained on a {recorded} checkpoint, and this is a {kind} one"


def _check_embeddings(adapter: Adapter, base: BaseModel) -> list[str]:
    """Compare embeddings that PEFT saved with an adapter with the base's; the head is tied to the embedding."""
    if not adapter.embeddings:
        return []
    checkpoint = resolve(spec_of_folder(base.path).read_checkpoint)(base.path)
    wanted = next((array for name, array in checkpoint.tensors() if name in EMBEDDINGS), np.empty(0))
    for name, array in adapter.embeddings.items():
        narrow = min((array.dtype, wanted.dtype), key=lambda dtype: dtype.itemsize)
        if array.shape != wanted.shape or not np.array_equal(array.astype(narrow), wanted.astype(narrow)):
            raise ConvertError(
                f"{adapter.path}: {name} is not that of {base.name}: trained or resized embeddings are not supported"
            )
    return [f"{adapter.path.name}: holds a copy of the base's embeddings, which is not needed"]


def _describe_base(adapter: Adapter) -> str:
    weights = (adapter.record.get("fingerprints") or {}).get("weights")
    return f"the base with the fingerprint {weights[:8]}" if weights else "the base that it was trained on"


def base_of(model: str | None, adapters: Sequence[Adapter]) -> BaseModel:
    """Find the base model: the given one, else the one that the adapters record.

    Raises:
        ConfigError: neither is given, the adapters name different ones, or it cannot be found.
    """
    if model:
        return find_model(model)
    targets = sorted({t for a in adapters if (t := locate_base(a.path, a.base_model, a.record))})
    if not targets:
        lost = [f"{a.path.name} needs {_describe_base(a)}" for a in adapters if a.base_model or a.record]
        if lost:
            raise ConfigError(f"{join_problems(lost)}, a folder that is not found from here; give it as --model")
        raise ConfigError("no base model is known; give --model, or an --adapter-dir that records one")
    if len(targets) > 1:
        names = ", ".join(name for _, name in targets)
        raise ConfigError(f"the adapters were trained on different bases ({names}); give --model")
    return find_model(targets[0][1], "the adapter's base", "give a copy of it as --model")


def find_base_and_adapters(
    model: str | None, adapters: Sequence[str], allow_mismatch: bool = False
) -> tuple[BaseModel, tuple[Adapter, ...], list[str]]:
    """Read adapters given as `PATH` or `PATH:STRENGTH`, find their base and compare it with the recorded one.

    Returns:
        base, adapters, and notes for the user.

    Raises:
        ConfigError: an adapter or the base cannot be found.
        ConvertError: an adapter cannot be read, or was trained on another base and allow_mismatch is off.
    """
    found = tuple(find_adapter(*parse_adapter(text)) for text in adapters)
    base = base_of(model, found)
    notes = [note for adapter in found for note in check_base(adapter, base, allow_mismatch)]
    return base, found, [*notes, *empty_updates(found, base)]


def empty_updates(adapters: Sequence[Adapter], base: BaseModel | None = None) -> list[str]:
    """List a remark for each adapter that changes nothing: its update or its strength is zero.

    Args:
        adapters: the adapters.
        base: theirs, for DoRA adapters; None leaves open if their magnitudes change anything.
    """
    notes = []
    for a in adapters:
        notes += [f"{a.path}: at strength 0 an adapter changes nothing"] if a.strength == 0 else []
        notes += note_empty_update(str(a.path), a.state, a.magnitudes, base)
    return notes


def changes_nothing(adapters: Sequence[Adapter], base: BaseModel | None = None) -> bool:
    """Return True where `empty_updates` has a remark on every adapter."""
    return all(empty_updates([adapter], base) for adapter in adapters)


def inject_adapters(model: Model, adapters: Sequence[Adapter]) -> None:
    """Combine adapters and inject them; without adapters the model stays as it is.

    A strength scales what an adapter changes. With DoRA among them the combination depends on the base's weights.

    Raises:
        ConvertError: they do not fit together, or the base.
    """
    if any(adapter.magnitudes for adapter in adapters):
        conv1d = spec_of_modules(state_modules(adapters[0].state), str(adapters[0].path)).fan_in_fan_out
        parts = [WholePart(a.spec, a.state, a.magnitudes, a.strength) for a in adapters]
        model.inject_adapter(*combine_with_dora(parts, model.read_weights(), conv1d=conv1d))
    elif adapters:
        model.inject_adapter(*combine_adapters([(a.spec, a.state, a.strength) for a in adapters]))
