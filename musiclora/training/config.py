"""Training options: one frozen record, filled in the order defaults < preset < TOML file < option."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.backends.base import FAMILIES, Family
from musiclora.backends.records import TrainingDefaults
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.files.json_file import OBJECT, TEXT, Kind, field_kinds
from musiclora.errors import ConfigError, join_problems, option_name
from musiclora.training.schedule import SCHEDULES
from musiclora.training.weighing import BY_TOKENS, WEIGHINGS

_MAX_TOML_BYTES = 1_000_000
_LARGEST, _LARGEST_SEED = 2**31 - 1, 2**63 - 1
DEFAULT_MODEL = "xingjianll/midi-gpt2"
_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class TrainConfig:
    """Options of `musiclora train`; None is planned from the data (see plan.py) or the family's default.

    Attributes:
        data_dir: folder of music, or a token cache written by `preprocess`.
        output_dir: the run folder.
        model: `bundled`, a Hub id, or a model folder (hf or mlx layout).
        tokenizer: tokenizer.json or its folder; None takes the one in the model's folder.
        max_seq_len: longest row in tokens, at most the model's n_positions.
        batch_size: rows in one forward pass.
        grad_accum_steps: forward passes in one optimiser step, weighted by their tokens.
        epochs: passes over the training songs.
        lr: peak learning rate.
        warmup_steps: optimiser steps of linear rise.
        max_grad_norm: clipping threshold of the global gradient norm; 0 turns it off.
        val_split: share of the songs held out, by near-duplicate cluster.
        patience: evaluations (one an epoch) without a better held-out loss before the run stops.
        mix_dir: further music to train on, so that the style stays a flavour.
        mix_ratio: share of the training tokens that come from mix_dir, in (0, 1).
        weigh: what counts the same in training: `tokens`, or `songs` whatever their length.
        transpose: every epoch draws for each training song a key at most this many semitones away; 0 keeps keys.
        anticipation: arrival-time tokens only: share of the rows in which a part of the events is given in advance, 0
            to 1; None is the share that the bases saw.
        sample_every: epochs between two samples; 0 writes none.
        stop_when_copying: end the run when samples copy training songs or recordings.
        num_workers: processes that read and tokenise.
        dtype: of the frozen base; None is float32, and for audio bfloat16 on a GPU.
        style: audio only: a file with the style that all recordings are learnt with; None takes the latents' own, or
            trains one vector with the adapter.
        caption: ACE-Step only: describes every recording; None takes dataset.json, the text beside each, or the
            folder's name.
        vae: audio only: the codec that encodes recordings; None takes the one in the model's folder.
        family: of the model, set by the run.
        architecture: of the model, set by the run; None is the first of the family.
        trainable: `adapter`, or `all` for full fine-tuning (used by `pretrain`).
        max_steps: optimiser steps after which the run stops, whatever the epochs.
        use_dora: train the lengths of the weights' rows besides LoRA (DoRA); None is False.
        use_rslora: scale the update by alpha / sqrt(rank) in place of alpha / rank; None is False.
        lora_plus_ratio: learning rate of B over that of A (LoRA+), at least 1; None is 1.
        adapter_dir: adapter whose arrays training starts from, with its rank, alpha and target modules.
        folds: cross-validate over this many folds of the songs, then train on all songs; None trains once.
        report_to: experiment trackers that are told every row of metrics.jsonl, separated by commas.
        fold: number of the fold that this run holds out, from 1, within `folds`; set by the runs inside `folds/`.
        train_share: share of the songs that are not held out to train on, for a learning curve; None is all.
        subset_seed: of the choice of that share.
    """

    data_dir: str
    output_dir: str
    model: str = DEFAULT_MODEL
    tokenizer: str | None = None
    max_seq_len: int = 1024
    batch_size: int | None = None
    grad_accum_steps: int | None = None
    epochs: int | None = None
    lr: float | None = None
    weight_decay: float = 0.01
    lr_schedule: str = "cosine"
    warmup_steps: int | None = None
    max_grad_norm: float = 1.0
    val_split: float = 0.1
    patience: int | None = None
    lora_r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: tuple[str, ...] | None = None
    dtype: str | None = None
    grad_checkpointing: bool | None = None
    num_workers: int | None = None
    mix_dir: str | None = None
    mix_ratio: float = 0.25
    weigh: str = BY_TOKENS
    transpose: int = 0
    anticipation: float | None = None
    sample_every: int = 0
    stop_when_copying: bool = False
    allow_base_mismatch: bool = False
    seed: int = 42
    backend: str = "auto"
    family: str = "symbolic"
    architecture: str | None = None
    trainable: str = "adapter"
    style: str | None = None
    caption: str | None = None
    vae: str | None = None
    max_steps: int | None = None
    adapter_dir: str | None = None
    use_dora: bool | None = None
    use_rslora: bool | None = None
    lora_plus_ratio: float | None = None
    folds: int | None = None
    fold: int | None = None
    report_to: str | None = None
    train_share: float | None = None
    subset_seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        problems = [*self._numbers_out_of_range(), *self._wrong_choices(), *self._texts_without_utf8()]
        if problems:
            raise ConfigError("; ".join(problems))

    def _numbers_out_of_range(self) -> list[str]:
        least = {
            **dict.fromkeys(
                (
                    "warmup_steps",
                    "num_workers",
                    "sample_every",
                    "transpose",
                    "seed",
                    "weight_decay",
                    "max_grad_norm",
                    "subset_seed",
                ),
                0,
            ),
            **dict.fromkeys(("batch_size", "grad_accum_steps", "epochs", "patience", "lora_r", "max_steps", "fold"), 1),
            **dict.fromkeys(("folds",), 2),
            **dict.fromkeys(("max_seq_len",), 8),
        }
        problems = []
        for name, low in least.items():
            value = getattr(self, name)
            most = _LARGEST_SEED if name == "seed" else _LARGEST
            if value is not None and not low <= value <= most:
                limit = f"at most {most}" if value > most else f"at least {low}"
                problems.append(f"{option_name(name)} is {value}; it must be {limit}")
        for name in ("lr", "lora_alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                problems.append(f"{option_name(name)} is {value}; it must be above 0")
        for name, low_open in (("val_split", False), ("mix_ratio", True), ("lora_dropout", False)):
            value = getattr(self, name)
            if value is not None and not (0 < value < 1 if low_open else 0 <= value < 1):
                problems.append(f"{option_name(name)} is {value}; it must lie in {'(' if low_open else '['}0, 1)")
        if self.lora_plus_ratio is not None and not 1 <= self.lora_plus_ratio < float("inf"):
            problems.append(f"--lora-plus-ratio is {self.lora_plus_ratio}; it must be a finite number, at least 1")
        if self.train_share is not None and not 0 < self.train_share <= 1:
            problems.append(f"train_share is {self.train_share}; it must lie in (0, 1]")
        if (self.fold or 0) > (self.folds or 0):
            problems.append(f"fold is {self.fold}; it must be at most folds, {self.folds}")
        if self.anticipation is not None and not 0 <= self.anticipation <= 1:
            problems.append(f"--anticipation is {self.anticipation}; it must lie in [0, 1]")
        return problems

    def _wrong_choices(self) -> list[str]:
        choices: dict[str, tuple[str, ...]] = {
            "lr_schedule": SCHEDULES,
            "dtype": ("float32", "float16", "bfloat16"),
            "backend": ("auto", "mlx", "torch"),
            "family": tuple(FAMILIES),
            "trainable": ("adapter", "all"),
            "weigh": WEIGHINGS,
        }
        return [
            f"{option_name(name)} is {getattr(self, name)!r}; there are {', '.join(known)}"
            for name, known in choices.items()
            if getattr(self, name) not in known and (name, getattr(self, name)) != ("dtype", None)
        ]

    def _texts_without_utf8(self) -> list[str]:
        """List the paths with bytes that config.toml cannot hold."""
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and value != value.encode(errors="replace").decode():
                problems.append(f"{option_name(field.name)} {value}: its name is no UTF-8 text; rename it")
        return problems

    @property
    def family_record(self) -> Family:
        return FAMILIES[self.family]

    @property
    def training_defaults(self) -> TrainingDefaults:
        """Settings of the model's architecture that hold where none are given."""
        return self.family_record.of(self.architecture or "")

    @property
    def held_fold(self) -> tuple[int, int] | None:
        """Fold that is held out: its number from 1, and the number of folds; None where --val-split decides."""
        return (self.fold, self.folds) if self.fold and self.folds else None

    @property
    def kept_share(self) -> tuple[float, int] | None:
        """Share of the songs to train on and the seed of its choice; None for all."""
        return None if self.train_share is None else (self.train_share, self.subset_seed)

    @property
    def main_folder(self) -> Path:
        """Folder that the user named; the runs of a cross-validation and of a learning curve lie two levels below."""
        path = Path(self.output_dir)
        return path if self.fold is None and self.train_share is None else path.parent.parent

    def lora(self) -> LoraSpec:
        """Return the adapter's settings, with the family's defaults where none was given."""
        default = self.training_defaults.lora
        rank = self.lora_r or default.rank
        alpha = self.lora_alpha if self.lora_alpha is not None else default.alpha / default.rank * rank
        dropout = default.dropout if self.lora_dropout is None else self.lora_dropout
        kind = {"rslora": bool(self.use_rslora), "dora": bool(self.use_dora)}
        return LoraSpec(rank, alpha, dropout, self.target_modules or default.targets, **kind)

    def changed(self) -> dict[str, Any]:
        """Return the settings that are not at their defaults."""
        return {
            f.name: value
            for f in dataclasses.fields(self)
            if f.default is not dataclasses.MISSING and (value := getattr(self, f.name)) != f.default
        }

    def as_toml(self) -> dict[str, Any]:
        """Return plain values for config.toml, without those that are None."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items() if v is not None}


def resolve_config(
    options: Mapping[str, Any],
    preset: str | None = None,
    config_file: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Build the record: defaults < preset < config file < options that are not None.

    Args:
        options: values by field name; None means not given.
        preset: name of a file in `presets/`.
        defaults: other ones than the record's.
        config_file: TOML with the field names, at the top or under [train].

    Raises:
        ConfigError: an unknown key or preset, a value of the wrong type or out of range, or a folder not given.
    """
    values: dict[str, Any] = dict(defaults or {})
    from_file = _read_settings(config_file) if config_file else {}
    in_file = from_file.pop("preset", None)
    preset = preset or in_file
    if preset is not None:
        values.update(_read_preset(preset))
    values.update(from_file)
    values.update({k: v for k, v in options.items() if v is not None})
    missing = [option_name(name) for name in ("data_dir", "output_dir") if not values.get(name)]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, as an option or in the config file")
    return TrainConfig(**values)


def list_presets() -> dict[str, str]:
    """Return the description of each preset by name."""
    return {path.stem: str(read_toml(path)["description"]) for path in sorted(_PRESETS.glob("*.toml"))}


def _read_preset(name: str) -> dict[str, Any]:
    if name not in (known := list_presets()):
        raise ConfigError(f"--preset {name!r} is unknown; there are {', '.join(known)}")
    return _check_keys(read_toml(_PRESETS / f"{name}.toml")["train"], name)


def read_toml(path: Path, kind: Kind = OBJECT) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: missing, unreadable, no TOML, or values of other types than its kind asks for.
    """
    try:
        if path.stat().st_size > _MAX_TOML_BYTES:
            raise ConfigError(f"{path}: is too large for settings")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if problems := kind.problems(content, ""):
        raise ConfigError(f"{path}: {join_problems(problems)}")
    return content


def _read_settings(path: Path) -> dict[str, Any]:
    content, where = read_toml(path), str(path)
    if set(content) == {"train"} and isinstance(content["train"], dict):
        content, where = content["train"], f"{path} [train]"
    return _check_keys(content, where)


def _check_keys(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse unknown keys and values of the wrong type, naming all of them."""
    kinds = {**field_kinds(TrainConfig), "preset": TEXT}
    problems = []
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(kinds))}"
            problems.append(f"unknown key {key!r}; {hint}")
        else:
            problems += kinds[name].problems(value, key)
    if problems:
        raise ConfigError(f"{where}: {join_problems(problems)}")
    return {key.replace("-", "_"): value for key, value in content.items()}
