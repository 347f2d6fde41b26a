"""Architectures of the audio family as adapter files name their modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from musiclora.convert.adapters import acestep_modules, diffrhythm_modules
from musiclora.convert.models.acestep_names import rename_attention, restore_attention


def _unchanged(path: str) -> str:
    return path


@dataclass(frozen=True)
class AudioModules:
    """Names of one architecture's modules.

    Attributes:
        architecture: for messages.
        list_modules: lists the canonical paths.
        to_diffusers: turns a canonical path, or the end of one, into that of diffusers' class.
        from_diffusers: inverts it.
        kohya_prefix: begins the flat names that kohya files are written with.
        comfyui_prefix: begins the dotted names that ComfyUI reads.
    """

    architecture: str
    list_modules: Callable[[], frozenset[str]]
    to_diffusers: Callable[[str], str]
    from_diffusers: Callable[[str], str]
    kohya_prefix: str
    comfyui_prefix: str


DIFFRHYTHM = AudioModules(
    "DiffRhythm", diffrhythm_modules.known_modules, _unchanged, _unchanged, "lora_unet_", "diffusion_model."
)
ACESTEP = AudioModules(
    "ACE-Step",
    acestep_modules.known_modules,
    rename_attention,
    restore_attention,
    "lycoris_",  # with this prefix ComfyUI leaves out `decoder`, as adapters of upstream's root do
    "diffusion_model.decoder.",
)
ARCHITECTURES = (DIFFRHYTHM, ACESTEP)
KNOWN = " or ".join(entry.architecture for entry in ARCHITECTURES)


def architecture_of(modules: Iterable[str]) -> AudioModules | None:
    """Find the architecture that has all modules; None where there is none."""
    wanted = set(modules)
    return next((entry for entry in ARCHITECTURES if wanted <= entry.list_modules()), None)


@cache
def known_paths() -> dict[str, str]:
    """Map every spelling of a module's path, without prefixes, to the canonical one."""
    modules = [(entry, module) for entry in ARCHITECTURES for module in entry.list_modules()]
    return {entry.to_diffusers(module): module for entry, module in modules} | {m: m for _, m in modules}


@cache
def flat_paths() -> dict[str, str]:
    """Map the flat spellings, in which `_` stands for a dot, to canonical paths."""
    flat = {path.replace(".", "_"): module for path, module in known_paths().items()}
    return flat | {f"decoder_{path}": module for path, module in flat.items() if module in ACESTEP.list_modules()}
