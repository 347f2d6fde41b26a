"""Model families: one record for each architecture, which all commands read.

A new architecture brings its own files and one `FamilySpec` here; nothing else asks for a family by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from musiclora.backends.base import FAMILIES, Family
from musiclora.convert.files.fingerprint import Watch, fingerprint_folder
from musiclora.convert.files.json_file import read_optional_json
from musiclora.errors import ConfigError, ConvertError, join_problems, option_name

__all__ = [
    "FAMILIES",
    "SPECS",
    "Family",
    "FamilySpec",
    "checkpoint_fingerprint",
    "family_of",
    "refuse_foreign",
    "refuse_other_data",
    "resolve",
    "spec_of_data",
    "spec_of_family",
    "spec_of_folder",
    "spec_of_modules",
]


@dataclass(frozen=True)
class FamilySpec:
    """One architecture of a model family: its names, its options, and the functions that do its part of a command.

    Functions are references `module:name` for `resolve`, so that a command imports the code of one family only. The
    protocols that they fulfil stand in `jobs` and in `conversion`.

    Attributes:
        family: key of `backends.base.FAMILIES`.
        architecture: `model_type` of config.json.
        title: its name in messages.
        options: parameters of commands that not every architecture has.
        adapter_formats: formats of `convert adapter` that can hold its adapters.
        adapter_task_type: `task_type` of adapter_config.json.
        pipeline_tag, card_tag: the Hub's task and this package's tag on cards.
        fan_in_fan_out: whether the adapted layers keep weights as [in, out], as GPT-2's Conv1D does.
        bundled: the bundled model of this architecture.
        data: words for its music in messages.
        owns_data: tells whether a folder or file holds music that it learns, or a cache of it.
        check_data: raises where a folder or file holds none of its music; reads no file.
        owns_modules: tells from the paths of an adapter's modules whether they are this architecture's.
        read_checkpoint: reads a model folder: `config`, and `tensors()` under canonical names.
        load_task: base and music of a training run (`training.task.TrainingTask`).
        watch: continues files that are dropped into a folder; None where no file can be continued so.
        generate, evaluate, compare, preprocess: its part of these commands; `compare` is evaluate's of generated music.
        demo, demo_options, next_commands: the demo, its settings, and the commands it recommends.
        model_facts: size and layout of a model folder, for `doctor`.
        convert_model, fuse_model, compare_adapters: its part of conversion.
        load_tokenizer: loads the tokenizer of a base by its name; None where the model reads recordings.
        owns_folder: tells whether a folder whose own config.json states nothing holds it, such as a diffusers pipeline;
            None where such folders do not exist.
        part_types: `model_type` of its parts, whose folder alone its reader refuses by name.
        hub_files: names of files that its repositories on the Hub hold besides JSON, safetensors and texts.
        hub_ignored: patterns of what they hold and this package does not read.
        flow: what the shared audio code asks of it (`audio.architecture.FlowArchitecture`); None for symbolic music.
        is_model_source: tells whether a file or folder without this package's config.json is this architecture's.
    """

    family: str
    architecture: str
    title: str
    options: tuple[str, ...]
    adapter_formats: tuple[str, ...]
    adapter_task_type: str | None
    pipeline_tag: str
    card_tag: str
    fan_in_fan_out: bool
    bundled: str
    data: str
    owns_data: str
    check_data: str
    owns_modules: str
    read_checkpoint: str
    load_task: str
    generate: str
    watch: str | None
    evaluate: str
    compare: str
    preprocess: str
    demo: str
    demo_options: str
    next_commands: str
    model_facts: str
    convert_model: str
    fuse_model: str
    compare_adapters: str
    load_tokenizer: str | None
    owns_folder: str | None
    part_types: tuple[str, ...]
    hub_files: tuple[str, ...]
    hub_ignored: tuple[str, ...]
    flow: str | None
    is_model_source: str


GPT2 = FamilySpec(
    family="symbolic",
    architecture="gpt2",
    title="GPT-2",
    options=(
        "tokenizer",
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "prompt",
        "prompt_bars",
        "from_end",
        *("instruments", "accompany", "parts", "infill", "from_bar", "to_bar", "from_seconds", "to_seconds"),
        *("train_dir", "avoid_copying", "stop_when_copying"),
        "transpose",
        "anticipation",
        "mix_dir",
        "mix_ratio",
    ),
    adapter_formats=("peft", "mlx-lm"),
    adapter_task_type="CAUSAL_LM",
    pipeline_tag="text-generation",  # the Hub has none for symbolic music; this is the one of the architecture
    card_tag="midi",
    fan_in_fan_out=True,
    bundled="bundled",
    data="songs in MIDI or ABC",
    owns_data="musiclora.symbolic.dataset.pieces:holds_songs",
    check_data="musiclora.symbolic.dataset.pieces:check_songs",
    owns_modules="musiclora.convert.models.gpt2:owns_gpt2_modules",
    read_checkpoint="musiclora.convert.models.gpt2:read_checkpoint",
    load_task="musiclora.symbolic.task:load_symbolic_task",
    generate="musiclora.symbolic.generate:generate_from_options",
    watch="musiclora.symbolic.watch:watch_from_options",
    evaluate="musiclora.symbolic.evaluate:evaluate_songs",
    compare="musiclora.symbolic.compare:compare_songs",
    preprocess="musiclora.symbolic.preprocess:preprocess_songs",
    demo="musiclora.demo.symbolic:symbolic_demo",
    demo_options="musiclora.demo.symbolic_result:SymbolicDemoOptions",
    next_commands="musiclora.demo.symbolic:symbolic_next_commands",
    model_facts="musiclora.symbolic.model:gpt2_facts",
    convert_model="musiclora.conversion.gpt2:convert_gpt2",
    fuse_model="musiclora.conversion.fuse_gpt2:fuse_gpt2",
    compare_adapters="musiclora.conversion.fuse_gpt2:compare_gpt2_adapters",
    load_tokenizer="musiclora.symbolic.model:tokenizer_for",
    owns_folder=None,
    part_types=(),
    hub_files=(),
    hub_ignored=(),
    flow=None,
    is_model_source="musiclora.conversion.gpt2:is_gpt2_source",
)

DIFFRHYTHM = FamilySpec(
    family="audio",
    architecture="diffrhythm",
    title="DiffRhythm",
    options=(
        "seconds",
        "steps",
        "guidance",
        "style",
        "negative_style",
        "init_audio",
        "repaint",
        "vae",
        "posterior",
        *("train_dir", "stop_when_copying"),
    ),
    adapter_formats=("peft", "diffusers", "kohya"),
    adapter_task_type=None,
    pipeline_tag="text-to-audio",
    card_tag="audio",
    fan_in_fan_out=False,
    bundled="bundled-audio",
    data="recordings",
    owns_data="musiclora.audio.latents.load:holds_recordings",
    check_data="musiclora.audio.latents.load:check_recordings",
    owns_modules="musiclora.convert.adapters.diffrhythm_modules:owns_diffrhythm_modules",
    read_checkpoint="musiclora.convert.models.diffrhythm:read_diffrhythm",
    load_task="musiclora.audio.diffrhythm.learning:load_diffrhythm_task",
    generate="musiclora.audio.diffrhythm.generate:generate_from_options",
    watch=None,
    evaluate="musiclora.audio.evaluate:evaluate_recordings",
    compare="musiclora.audio.compare:compare_recordings",
    preprocess="musiclora.audio.diffrhythm.preprocess:preprocess_recordings",
    demo="musiclora.demo.audio:audio_demo",
    demo_options="musiclora.demo.audio_result:AudioDemoOptions",
    next_commands="musiclora.demo.audio:audio_next_commands",
    model_facts="musiclora.audio.diffrhythm.base:diffrhythm_facts",
    convert_model="musiclora.conversion.diffrhythm:convert_diffrhythm",
    fuse_model="musiclora.conversion.fuse_diffrhythm:fuse_diffrhythm",
    compare_adapters="musiclora.conversion.fuse_diffrhythm:compare_diffrhythm_adapters",
    load_tokenizer=None,
    owns_folder=None,
    part_types=(),
    hub_files=("cfm_model.pt", "vae_model.pt"),  # how the original comes
    hub_ignored=(),
    flow="musiclora.audio.diffrhythm.architecture:DIFFRHYTHM",
    is_model_source="musiclora.conversion.diffrhythm:is_diffrhythm_source",
)

ACESTEP = replace(
    DIFFRHYTHM,
    architecture="acestep",
    title="ACE-Step",
    owns_folder="musiclora.convert.models.acestep_folders:is_acestep_folder",
    part_types=("qwen3",),
    hub_files=("silence_latent.pt",),
    hub_ignored=("acestep-5Hz-lm*/*",),  # upstream's planner of lyrics and codes
    options=(
        "seconds",
        "steps",
        "guidance",
        "init_audio",
        "repaint",
        "vae",
        "posterior",
        *("caption", "lyrics", "bpm", "key", "time_signature", "language", "shift", "reference", "estimates"),
        *("train_dir", "stop_when_copying"),
    ),
    adapter_formats=("peft", "diffusers", "comfyui", "kohya"),
    adapter_task_type="FEATURE_EXTRACTION",
    owns_modules="musiclora.convert.adapters.acestep_modules:owns_acestep_modules",
    read_checkpoint="musiclora.convert.models.acestep:read_acestep",
    load_task="musiclora.audio.acestep.learning:load_acestep_task",
    generate="musiclora.audio.acestep.generate:generate_from_options",
    watch=None,
    preprocess="musiclora.audio.acestep.preprocess:preprocess_recordings",
    model_facts="musiclora.audio.acestep.architecture:acestep_facts",
    convert_model="musiclora.conversion.acestep:convert_acestep",
    fuse_model="musiclora.conversion.fuse_acestep:fuse_acestep",
    compare_adapters="musiclora.conversion.fuse_acestep:compare_acestep_adapters",
    flow="musiclora.audio.acestep.architecture:ACESTEP",
    is_model_source="musiclora.conversion.acestep:is_acestep_source",
)

SPECS: tuple[FamilySpec, ...] = (GPT2, DIFFRHYTHM, ACESTEP)  # the first is meant where nothing tells


def resolve(reference: str) -> Any:
    """Import what a reference `module:name` of a record names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def spec_of_folder(folder: Path) -> FamilySpec:
    """Find the record of a model folder by the model_type of its config.json, or by its parts.

    A folder that says nothing, or another architecture, counts as the first record's: its reader then says what is
    wrong.
    """
    try:
        kind = read_optional_json(folder / "config.json").get("model_type")
        if kind is None:
            owners = [spec for spec in SPECS if spec.owns_folder and resolve(spec.owns_folder)(folder)]
            return owners[0] if owners else SPECS[0]
    except ConvertError:
        return SPECS[0]
    return next((spec for spec in SPECS if kind in (spec.architecture, *spec.part_types)), SPECS[0])


def spec_of_family(family: str) -> FamilySpec:
    """Find the first record of a family."""
    return next(spec for spec in SPECS if spec.family == family)


def spec_of_modules(modules: Iterable[str], where: str) -> FamilySpec:
    """Find the record of an adapter by the paths of its modules.

    Args:
        modules: the paths.
        where: the adapter, for messages.

    Raises:
        ConvertError: no architecture has all of these modules.
    """
    paths = list(modules)
    owner = next((spec for spec in SPECS if resolve(spec.owns_modules)(paths)), None)
    if owner is None:
        known = ", ".join(f"{spec.architecture} ({spec.family})" for spec in SPECS)
        raise ConvertError(
            f"{where}: an adapter of an architecture that is not known here; it adapts "
            f"{join_problems(paths, 2)}. Known are {known}"
        )
    return owner


def spec_of_data(folder: Path) -> FamilySpec | None:
    """Find the record whose music a folder or file holds; None where it holds that of several families, or none."""
    found = [spec for spec in SPECS if resolve(spec.owns_data)(folder)]
    return found[0] if len({spec.family for spec in found}) == 1 else None


def check_data_exists(folder: Path) -> None:
    """Raise ConfigError where the value of `--data-dir` is no file and no folder."""
    if not folder.exists():
        raise ConfigError(f"--data-dir {folder}: no such file or folder")


def refuse_other_data(folder: Path, family: str, model: str) -> None:
    """Refuse a folder without music that a model learns, without reading a file.

    Args:
        folder: value of `--data-dir`.
        family: the model's.
        model: its name, for the message.

    Raises:
        ConfigError: there is no such folder, or it holds the music of another family.
        DataError: it holds no music.
    """
    check_data_exists(folder)
    found = spec_of_data(folder)
    if found and found.family != family:
        own = spec_of_family(family).data
        raise ConfigError(
            f"{folder}: holds {found.data}, and {model} learns {own}; give --model {found.bundled} or another model of "
            f"the {found.family} family"
        )
    resolve(spec_of_family(family).check_data)(folder)


def family_of(folder: Path) -> str:
    """Name the family of a model folder; see `spec_of_folder`."""
    return spec_of_folder(folder).family


def checkpoint_fingerprint(folder: Path, watch: Watch | None = None) -> dict[str, str]:
    """Compute the fingerprints of a model folder of any architecture; see `fingerprint_folder`.

    Args:
        folder: the model's.
        watch: passes the tensors through on their way, to show how far it is.

    Raises:
        ConvertError: the folder holds no readable checkpoint.
    """
    return fingerprint_folder(folder, resolve(spec_of_folder(folder).read_checkpoint), watch)


def refuse_foreign(own: FamilySpec, model: str, given: Mapping[str, Any]) -> None:
    """Refuse options that a model's architecture does not have and another one has.

    Args:
        own: the model's record.
        model: its name, for the message.
        given: options by parameter name; None and empty ones were not given.

    Raises:
        ConfigError: at least one option is another architecture's; those of one family are named together.
    """
    foreign = [
        name
        for name in dict.fromkeys(name for spec in SPECS for name in spec.options)
        if name not in own.options and given.get(name) not in (None, ())
    ]
    owners = [[spec for spec in SPECS if name in spec.options] for name in foreign]
    for other in dict.fromkeys(spec.family for specs in owners for spec in specs if spec.family != own.family):
        names = [n for n, specs in zip(foreign, owners, strict=True) if {spec.family for spec in specs} == {other}]
        if names:
            options = ", ".join(map(option_name, names))
            raise ConfigError(
                f"{options}: for models of the {other} family only, and {model} is of the {own.family} one"
            )
    if foreign:
        titles = " and ".join(dict.fromkeys(spec.title for specs in owners for spec in specs))
        options = ", ".join(map(option_name, foreign))
        raise ConfigError(f"{options}: for {titles} only, and {model} is {own.title}")
