"""Comparison of the run in a folder with the run that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.backends.base import FAMILIES
from musiclora.backends.records import TrainingDefaults
from musiclora.convert.files.folder_lock import LOCK_FILE
from musiclora.convert.files.json_file import NUMBER, TEXT, field_kinds, object_with, read_json
from musiclora.convert.files.outputs import check_apart, check_folder
from musiclora.errors import MusicLoraError, TrainingError, option_name
from musiclora.training.config import TrainConfig, read_toml
from musiclora.training.run_folder import CONFIG, META, Run

# Settings that may change between two starts of one run without making it another run.
_CHANGEABLE = {
    "epochs",
    "max_steps",
    "num_workers",
    "patience",
    "sample_every",
    "stop_when_copying",
    "output_dir",
    "allow_base_mismatch",
    "report_to",
    "backend",
}
# Settings of the run on disk that go on where none is given: the planned ones, and the learning rate, whose default may
# be another than that of the version which began the run.
PLANNED = {"batch_size", "grad_accum_steps", "warmup_steps", "dtype", "lr"}
_CONFIG_KIND = object_with({"train": object_with(field_kinds(TrainConfig))}, ("train",))
_META_KIND = object_with({"data": TEXT, "lr": NUMBER}, ("data",))


def open_run(config: TrainConfig) -> Run:
    """Check that a run can be written where the options say; nothing is written yet.

    Raises:
        ConfigError: the output folder lies inside a folder of music, or around it, or cannot be written.
    """
    folder = Path(config.output_dir)
    check_apart(folder, {"--data-dir": config.data_dir, "--mix-dir": config.mix_dir})
    check_folder(folder)
    return Run(folder)


def settle_folder(run: Run, restart: bool, say: Callable[[str], None], ours: Sequence[str] = ()) -> None:
    """Repair what a killed start left, and set an old run aside where that is asked for.

    Args:
        run: the folder, locked.
        restart: begin anew.
        say: tells the user where the old run is.
        ours: names of files that do not count as an old run.

    Raises:
        TrainingError: the folder holds something else than a run.
    """
    run.recover()
    filled = any(path.name not in (LOCK_FILE, *ours) for path in run.path.iterdir())
    if restart and filled:
        say(f"the old run is kept in {run.set_aside()}")
    elif filled and not run.exists:
        raise TrainingError(f"{run.path}: is not empty and holds no run; choose another --output-dir")


def check_same_run(run: Run, config: TrainConfig, backend: str, songs: str) -> dict[str, Any]:
    """Compare a run on disk with the one asked for.

    Args:
        run: the folder.
        config: the options that are asked for.
        backend: the backend that is chosen.
        songs: hash of the songs.

    Returns:
        The settings of the run on disk.

    Raises:
        TrainingError: other settings, songs or backend, each named; or records that cannot be read.
    """
    try:
        old = read_toml(run.path / CONFIG, _CONFIG_KIND)["train"]
        meta = read_json(run.path / META, _META_KIND)
    except MusicLoraError as error:
        raise TrainingError(
            f"{run.path}: {CONFIG} or {META} is missing or damaged ({error}); use --restart or another folder"
        ) from error
    new = config.as_toml()
    if "lr" in meta:
        old = {"lr": meta["lr"], **old}
    differing = _differing_settings(old, new)
    if old.get("backend") != backend:
        differing.append(f"--backend was {old.get('backend')}, is {backend}")
    if meta["data"] != songs:
        differing.append("the songs changed")
    if differing:
        raise TrainingError(f"{run.path}: holds another run ({'; '.join(differing)}); use --restart or another folder")
    return dict(old)


def _differing_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe settings that differ; one that was not given counts as its default."""
    family = FAMILIES.get(str(new.get("family")), FAMILIES["symbolic"])
    defaults = family.of(str(new.get("architecture", "")))
    both = [{**_own_defaults(defaults, values), **values} for values in (old, new)]
    names = [k for k in {**old, **new} if k not in _CHANGEABLE and (k in new or k not in PLANNED)]
    return [
        _describe_transposition(old.get(name, 0), new.get(name, 0))
        if name == "transpose" and new.get("trainable") == "all"
        else f"{option_name(name)} was {_describe_value(name, old, both[0])}, is {_describe_value(name, new, both[1])}"
        for name in names
        if both[0].get(name) != both[1].get(name)
    ]


def _describe_transposition(old: int, new: int) -> str:
    """Describe other semitones of a pretraining, which decides them by its tokens: no option holds their number."""
    if not new:
        return f"songs were transposed by up to {old} semitones, are not with --no-transpose"
    return f"songs are transposed by up to {new} semitones, were otherwise with --no-transpose or an earlier version"


def _own_defaults(defaults: TrainingDefaults, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that hold where they are not given, the architecture's too; alpha follows the rank.

    A run of an earlier version lacks settings that came later; their defaults are how it was trained.
    """
    lora = defaults.lora
    rank = values.get("lora_r", lora.rank)
    fixed = {f.name: f.default for f in dataclasses.fields(TrainConfig) if f.default not in (None, dataclasses.MISSING)}
    return {
        **fixed,
        "lora_r": lora.rank,
        "lora_alpha": lora.alpha / lora.rank * rank if isinstance(rank, int) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "lr": defaults.learning_rate,
        "use_dora": False,
        "use_rslora": False,
        "lora_plus_ratio": 1.0,
    }


def _describe_value(name: str, given: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    if name in given:
        return repr(given[name])
    return f"{resolved[name]!r} (the default)" if name in resolved else "not given"
