"""LoRA settings, the modules they target, and the arrays they need."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from musiclora.convert.errors import ConfigError, ConvertError, join_problems, list_names
from musiclora.convert.files.safetensors_file import FLOATS, Arrays, Shape, cast_tensor, non_finite

# Rank and scale of every module, by its path.
RankScales = Mapping[str, tuple[int, float]]

# Marks in the array names of other methods; every format spells them alike.
_OTHER_METHODS = {"lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", "lora_embedding_": "embedding"}

_ROOT, _WEIGHT = "decoder.", ".weight"
STATE_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
MAGNITUDE = "lora_magnitude_vector"
MAGNITUDE_KEY = re.compile(rf"(?P<module>.+)\.{MAGNITUDE}(?:\.default)?(?:\.weight)?")


@dataclass(frozen=True)
class LoraSpec:
    """Settings of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: columns of B and rows of A, at least 1.
        alpha: the update is scaled by alpha / rank, or alpha / sqrt(rank) with rslora (arXiv 2312.03732).
        dropout: probability in [0, 1) of zeroing an input of A while training.
        targets: module names; each matches exactly or as a dotted suffix, as in PEFT's list of target_modules.
        rslora: use the rank-stabilised scale.
        dora: weight-decomposed (Liu et al. 2024, arXiv 2402.09353): each row of W + scale * B @ A is rescaled to a
            trained length, `<module>.lora_magnitude_vector` [out].
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets))))
        if self.rank < 1:
            raise ConfigError(f"LoRA rank is {self.rank}; it must be at least 1")
        if not math.isfinite(self.alpha):
            raise ConfigError(f"LoRA alpha is {self.alpha}; it must be a finite number")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRA dropout is {self.dropout}; it must lie in [0, 1)")
        if not self.targets:
            raise ConfigError("no target modules were named for LoRA")

    @property
    def scale(self) -> float:
        """Multiplier of B @ A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def check_rank(rank: int, linear_shapes: Mapping[str, tuple[int, int]], option: str) -> None:
    """Refuse a rank above the smaller side of any of the modules, where it adds nothing but memory.

    Args:
        rank: of the adapter.
        linear_shapes: (out, in) of the modules that are adapted.
        option: name of the rank's option, for the message.

    Raises:
        ConfigError: the rank is too large for at least one module.
    """
    module, (out, inputs) = min(linear_shapes.items(), key=lambda item: min(item[1]))
    most = min(out, inputs)
    if rank > most:
        raise ConfigError(f"{option} is {rank}; {module} is {out} x {inputs}, so that the rank can be at most {most}")


def match_targets(modules: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Select the modules that the targets match, in the order given; every target must match one.

    Raises:
        ConfigError: a target that matches nothing, with some names that exist.
    """
    names = list(modules)
    wanted = list(targets)
    missed = unmatched_targets(names, wanted)
    if missed:
        leaves = {n.rsplit(".", 1)[-1] for n in names}
        known = [t for t in missed if t.rsplit(".", 1)[-1] in leaves]
        alike = [n for n in names if n.rsplit(".", 1)[-1] == known[0].rsplit(".", 1)[-1]] if known else sorted(leaves)
        raise ConfigError(
            f"target modules {list_names(missed)} match nothing in this model; it has {list_names(alike, 12)}"
        )
    return [name for name in names if is_target(name, wanted)]


def is_target(module: str, targets: Iterable[str]) -> bool:
    """Return True where a target is a module's path or its end after a dot."""
    return any(module == target or module.endswith("." + target) for target in targets)


def unmatched_targets(modules: Iterable[str], targets: Iterable[str]) -> list[str]:
    """List the targets that match no module."""
    names = list(modules)
    return [target for target in targets if not any(is_target(name, (target,)) for name in names)]


def state_keys(module: str) -> tuple[str, str]:
    """Name the state keys of one module: A [rank, in] and B [out, rank]."""
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def module_of_weight(name: str) -> str:
    """Return the path, as adapters write it, of the module whose weight has this canonical name.

    Adapters of ACE-Step are rooted at its transformer, which is one part of the checkpoint. Other tensors give a text
    that is no module's path.
    """
    return name.removeprefix(_ROOT).removesuffix(_WEIGHT) if name.endswith(_WEIGHT) else ""


def magnitude_key(module: str) -> str:
    """Name the state key of a module's magnitudes, float32 [out], which only DoRA adapters have."""
    return f"{module}.{MAGNITUDE}"


def join_magnitudes(state: Arrays, magnitudes: Arrays) -> dict[str, np.ndarray]:
    """Add DoRA's magnitudes, given by module, to a state under their keys."""
    return {**state, **{magnitude_key(module): vector for module, vector in magnitudes.items()}}


def split_magnitudes(state: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Invert `join_magnitudes`: the matrices by state key, and the magnitudes by module."""
    found = {name: match["module"] for name in state if (match := MAGNITUDE_KEY.fullmatch(name))}
    return {k: v for k, v in state.items() if k not in found}, {m: state[name] for name, m in found.items()}


def integer_problem(name: str, array: np.ndarray) -> str:
    """Describe an array of integers, which are no values by themselves; "" for one of floats."""
    return "" if array.dtype in FLOATS else f"{name} is {array.dtype}: quantised or integer arrays are not supported"


def to_float32(name: str, array: np.ndarray) -> np.ndarray:
    """Cast a float array to float32.

    Raises:
        ConvertError: integers, which are no values by themselves, or a finite value that becomes infinite.
    """
    if problem := integer_problem(name, array):
        raise ConvertError(problem)
    return cast_tensor(name, array, np.dtype(np.float32))


def alpha_for(scale: float, rank: int) -> float:
    """Find the alpha whose quotient by the rank is exactly scale; a round number where one fits."""
    alpha = scale * rank
    near = (math.nextafter(alpha, 0), math.nextafter(alpha, math.copysign(1e300, alpha)))
    for candidate in (float(round(alpha)), round(alpha, 6), alpha, *near):
        if candidate / rank == scale:
            return candidate
    return alpha


def describe_foreign_array(name: str, others: Mapping[str, str] | None = None) -> str:
    """Describe an array that does not belong to LoRA, with its method where the name tells it.

    Args:
        name: the array's name.
        others: more marks of methods that the format does not hold.
    """
    kind = next((kind for mark, kind in (_OTHER_METHODS | dict(others or {})).items() if mark in name), None)
    return f"{name} ({kind} is not supported)" if kind else f"{name} is no LoRA array"


def check_magnitudes(magnitudes: Arrays, state: Arrays, where: str) -> None:
    """Compare DoRA's magnitudes with an adapter's modules; each needs one vector [out].

    Raises:
        ConvertError: missing, surplus, mis-shaped or non-finite vectors, all at once.
    """
    modules = state_modules(state)
    problems = [f"{module} has no magnitude vector" for module in modules if module not in magnitudes]
    for module, vector in magnitudes.items():
        outputs = state[state_keys(module)[1]].shape[:1] if module in modules else None
        if outputs is None:
            problems.append(f"{module} has a magnitude vector, but no LoRA arrays")
        elif vector.shape != outputs:
            problems.append(f"the magnitude vector of {module} is {list(vector.shape)}, expected {list(outputs)}")
        elif problem := non_finite(f"the magnitude vector of {module}", vector):
            problems.append(problem)
    if problems:
        raise ConvertError(f"{where}: not a whole DoRA adapter: {join_problems(problems)}")


def state_shapes(spec: LoraSpec, linear_shapes: Mapping[str, tuple[int, int]]) -> dict[str, Shape]:
    """Compute the shape of every adapter array that spec needs on a model.

    Args:
        spec: settings of the adapter.
        linear_shapes: (out, in) of every module that can carry LoRA.

    Raises:
        ConfigError: a target matches nothing.
    """
    shapes: dict[str, Shape] = {}
    for module in match_targets(linear_shapes, spec.targets):
        out, inputs = linear_shapes[module]
        key_a, key_b = state_keys(module)
        shapes[key_a], shapes[key_b] = (spec.rank, inputs), (out, spec.rank)
        if spec.dora:
            shapes[magnitude_key(module)] = (out,)
    return shapes


def state_problems(state: Arrays, expected: Mapping[str, Shape]) -> list[str]:
    """List missing, surplus, mis-shaped and non-finite arrays of a state, by the names and shapes it needs."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, array in state.items():
        if name not in expected:
            problems.append(f"{name} is surplus")
        elif tuple(array.shape) != tuple(expected[name]):
            problems.append(f"{name} is {list(array.shape)}, expected {list(expected[name])}")
        elif problem := non_finite(name, array):
            problems.append(problem)
    return problems


def check_state(state: Arrays, expected: Mapping[str, tuple[int, ...]], where: str = "adapter") -> None:
    """Compare names and shapes of an adapter state with the expected ones, and refuse non-finite values.

    Raises:
        ConvertError: missing, surplus, mis-shaped or non-finite arrays, all at once.
    """
    if problems := state_problems(state, expected):
        raise ConvertError(f"{where}: the adapter's arrays do not fit: {join_problems(problems)}")


def state_modules(state: Iterable[str]) -> list[str]:
    """List the paths of the modules in an adapter state, in its order."""
    return list(dict.fromkeys(match["module"] for name in state if (match := STATE_KEY.fullmatch(name))))


def rank_of(state: Arrays, module: str) -> int:
    """Read a module's rank off its A, [rank, in]; 0 where A is missing or no matrix."""
    a = state.get(state_keys(module)[0])
    return int(a.shape[0]) if a is not None and a.ndim == 2 else 0


def rank_problems(state: Arrays) -> list[str]:
    """List the matrices A of a state that are missing or have no rank; see `rank_of`."""
    keys = [state_keys(module)[0] for module in state_modules(state) if not rank_of(state, module)]
    return [f"{k} is {list(state[k].shape)}, expected [rank, in]" if k in state else f"{k} is missing" for k in keys]


def shapes_by_rank(state: Arrays, ranks: Mapping[str, int]) -> dict[str, Shape]:
    """Compute the shapes that the ranks alone demand; input and output sizes are those of the arrays themselves."""
    shapes: dict[str, Shape] = {}
    for module, rank in ranks.items():
        key_a, key_b = state_keys(module)
        a, b = state.get(key_a), state.get(key_b)
        shapes[key_a] = (rank, *(a.shape[1:2] if a is not None and a.ndim > 1 else (-1,)))
        shapes[key_b] = (*(b.shape[:1] if b is not None and b.ndim else (-1,)), rank)
    return shapes
