"""Facts about this machine, a base model and a folder of songs, for `musiclora doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import __version__
from musiclora.audio.latents.levels import latents_size
from musiclora.audio.latents.store import read_latents
from musiclora.backends.registry import BACKENDS, choose, probe
from musiclora.convert.files.json_file import read_json
from musiclora.errors import BackendError, ConvertError, DataError
from musiclora.evaluation.scores import count_pieces
from musiclora.families import SPECS, resolve, spec_of_data, spec_of_folder
from musiclora.models import find_model
from musiclora.progress import OnProgress
from musiclora.symbolic.dataset.pieces import PieceSet, from_reading, is_token_cache, read_token_cache
from musiclora.symbolic.reading.health import health_json, health_line, health_table
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.render import find_soundfont
from musiclora.symbolic.tokens.band_bases import name_band_bases
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.round_trip import add_round_trips
from musiclora.symbolic.tokens.tokenizers import load_tokenizer
from musiclora.training.run_folder import META

ModelFacts = Callable[[Path], dict[str, Any]]  # layout and size of a model folder; one for each architecture


def memory_bytes() -> int | None:
    """Return the physical memory; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def machine_facts() -> dict[str, Any]:
    """Collect versions, processor, memory, backends, the backend that `auto` takes, and sound programs."""
    try:
        auto: str | None = choose("auto")
    except BackendError:
        auto = None
    try:
        soundfont: str | None = str(find_soundfont(None))
    except DataError:
        soundfont = None
    return {
        "musiclora": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory": memory_bytes(),
        "backends": {name: dict(probe(name)) for name in BACKENDS},
        "auto": auto,
        "soundfont": soundfont,
        "fluidsynth": shutil.which("fluidsynth"),
    }


def model_facts(name: str) -> dict[str, Any]:
    """Collect path, licence, layout and size of a base model.

    Raises:
        ConfigError, ConvertError: it cannot be found, or its architecture is not known.
    """
    base = find_model(name)
    facts: ModelFacts = resolve(spec_of_folder(base.path).model_facts)
    return {"name": base.name, "path": str(base.path), "licence": base.licence, **facts(base.path)}


def songs_report(data_dir: Path, model: str, workers: int | None, on_progress: OnProgress) -> dict[str, Any]:
    """Read a folder of songs and count what a model's tokens keep and lose of it.

    Args:
        data_dir: folder of music, one file, or a token cache.
        model: base model, whose tokenizer is used; a token cache has its own.
        workers: child processes that read; None: one for each core, at most eight.
        on_progress: called with (done, total) tunes.

    Returns:
        The health table for `--json`, and as text under `table` and `line`. `tokenizer` is its kind, and
        `kept_by_tokens` holds the counts; both are None where the model has no tokenizer. `round_trip` is the
        comparison of the songs with what their tokens decode to; None without a tokenizer, and for a token cache.
        `notes` are remarks.

    Raises:
        DataError: the folder holds no music, or is a damaged token cache.
    """
    tokenizer, notes = (load_tokenizer(data_dir), []) if is_token_cache(data_dir) else _find_tokenizer(model)
    trip = None
    if is_token_cache(data_dir):
        model, found = str(data_dir), read_token_cache(data_dir, tokenizer)
    else:
        reading = read_music(
            data_dir,
            workers=workers,
            on_progress=on_progress,
            tokenizer=tokenizer,
            keep_scores=False,
            need_songs=False,
            round_trip=True,
        )
        trip = add_round_trips(s.round_trip for s in reading.songs if s.is_original and s.round_trip is not None)
        # Without a tokenizer there are no pieces.
        found = from_reading(reading) if tokenizer else PieceSet([], reading.health)
    rows = found.health
    if tokenizer:
        lines = [*describe_kept(found.kept, tokenizer.holds), *(trip.describe(tokenizer.holds) if trip else ())]
        lines += name_band_bases(found.kept, tokenizer.holds)
        notes = [f"{model} ({tokenizer.kind}): {line}" for line in lines]
    return {
        **health_json(rows),
        "tokenizer": tokenizer.kind if tokenizer else None,
        "kept_by_tokens": found.kept.as_json() if tokenizer else None,
        "round_trip": trip.as_json(tokenizer.holds) if tokenizer and trip else None,
        "notes": notes,
        "line": health_line(rows),
        "table": health_table(rows),
    }


def _find_tokenizer(model: str) -> tuple[SymbolicTokenizer | None, list[str]]:
    """Load a base's tokenizer; without one, say why the notes are counted as they are in the files."""
    load = spec_of_folder(find_model(model).path).load_tokenizer
    if load is None:
        return None, [f"{model} learns recordings: the notes are counted as they are in the files"]
    try:
        return resolve(load)(model), []
    except DataError:
        return None, [f"{model} has no usable tokenizer.json: the notes are counted as they are in the files"]


def bundled_model_for(data_dir: Path | None) -> str:
    """Name the bundled model of the family whose music a folder holds; `bundled` where nothing tells."""
    found = spec_of_data(data_dir) if data_dir else None
    return (found or SPECS[0]).bundled


def latents_report(folder: Path) -> dict[str, Any]:
    """Count the recordings of a latents folder, for `--json`, and as text under `line`.

    Raises:
        DataError: the folder is damaged.
    """
    found = read_latents(folder)
    sources, seconds = len({str(item["source"]) for item, _ in found}), 0.0
    for item, _ in found:
        seconds += float(item.get("end", 0.0)) - float(item.get("start", 0.0))
    size = latents_size(np.concatenate([arrays["latents"].ravel() for _, arrays in found]))
    line = (
        f"latents of {count_pieces(sources, 'recordings')} in {len(found):,} files, {seconds / 60:.1f} minutes; their "
        f"root mean square is {size:.2f}, about 1 is usual"
    )
    return {"recordings": sources, "files": len(found), "seconds": seconds, "latents_size": size, "line": line}


def run_report(folder: Path) -> dict[str, Any] | None:
    """Describe a run folder, an adapter's or a model's without music; None for others.

    Returns:
        Facts for `--json`, and as text under `line`.
    """
    if not (folder / META).is_file():
        kinds = {"adapter_config.json": ("an adapter", "--adapter-dir"), "config.json": ("a model", "--model")}
        for file, (kind, option) in kinds.items():
            if (folder / file).is_file() and not any(resolve(spec.owns_data)(folder) for spec in SPECS):
                return {"kind": kind, "line": f"{folder}: the folder of {kind}, no music; give it as {option}"}
        return None
    try:
        meta = read_json(folder / META)
    except ConvertError as error:
        return {"kind": "run", "line": f"{folder}: a run folder whose {META} is damaged ({error})"}
    kept = {name: meta.get(name) for name in ("base_model", "family", "backend", "steps", "ended", "best_val_loss")}
    best = kept["best_val_loss"]
    loss = f", best held-out loss {best:.4f}" if isinstance(best, int | float) else ""
    end = f"finished ({kept['ended']})" if kept["ended"] else "not finished; the same command resumes it"
    line = f"{folder}: a run folder of {kept['base_model']}, {kept['steps']} steps{loss}, {end}"
    used = "--model" if meta.get("trainable") == "all" else "--adapter-dir"
    return {"kind": "run", **kept, "line": f"{line}; it holds no music, give it as {used}"}


def backend_line(name: str, facts: dict[str, Any]) -> str:
    """Describe one backend in a line."""
    if "error" in facts:
        return f"{name}: cannot start: {facts['error']} (pip install 'musiclora[{name}]')"
    known = {key: value for key, value in facts.items() if key not in ("device", "name") and value is not None}
    rest = ", ".join(f"{key} {value}" for key, value in known.items())
    slow = facts["device"] == "cpu" and "blas" in facts and "blas" not in known and platform.system() == "Linux"
    warning = "; warning: without a fast BLAS it is 25 to 60 times slower" if slow else ""
    return f"{name}: {facts['device']} ({facts.get('name', '')}); {rest}{warning}"
