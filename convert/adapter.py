"""LoRA adapters as PEFT folders: the record of their settings, and which modules they touch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from musiclora.convert.errors import ConfigError


@dataclass(frozen=True)
class LoraSpec:
    """What an adapter is made of (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: columns of B and rows of A, at least 1.
        alpha: the update is scaled by alpha / rank, or alpha / sqrt(rank) with rslora (arXiv 2312.03732).
        dropout: probability in [0, 1) of zeroing an input of A while training.
        targets: module names that match exactly or as a dotted suffix, as PEFT's list form of target_modules.
        rslora: use the rank-stabilised scale.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets))))
        if self.rank < 1:
            raise ConfigError(f"LoRA rank is {self.rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRA dropout is {self.dropout}; it must lie in [0, 1)")
        if not self.targets:
            raise ConfigError("no target modules were named for LoRA")

    @property
    def scale(self) -> float:
        """Multiplier of B @ A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def match_targets(modules: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Names of the modules that the targets hit, in the order given; every target must hit one.

    Raises:
        ConfigError: a target that matches nothing, with some names that exist.
    """
    names = list(modules)
    wanted = list(targets)
    missed = [t for t in wanted if not any(n == t or n.endswith("." + t) for n in names)]
    if missed:
        leaves = sorted({n.rsplit(".", 1)[-1] for n in names})
        raise ConfigError(f"target modules {', '.join(missed)} match nothing in this model; it has {', '.join(leaves[:8])}")
    return [n for n in names if any(n == t or n.endswith("." + t) for t in wanted)]


_STATE_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight$")


def state_keys(module: str) -> tuple[str, str]:
    """Adapter state keys of one module: A [rank, in] and B [out, rank]."""
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"
