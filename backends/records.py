"""Records that cross the backend interface: families, settings and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.errors import ConfigError


@dataclass(frozen=True)
class TrainingDefaults:
    """Default settings of an architecture's LoRA training.

    Attributes:
        lora: settings of the adapter.
        learning_rate: of AdamW.
        patience: evaluations without improvement before training stops.
    """

    lora: LoraSpec
    learning_rate: float
    patience: int


@dataclass(frozen=True)
class Family:
    """One kind of model: its architectures, with the defaults of their training.

    Attributes:
        name: key in `FAMILIES`.
        defaults: by architecture, which is `model_type` of config.json; the first stands for a checkpoint that names
            none.
    """

    name: str
    defaults: Mapping[str, TrainingDefaults]

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the architectures."""
        return tuple(self.defaults)

    @property
    def lora(self) -> LoraSpec:
        """Settings of the first architecture's adapters."""
        return self.of("").lora

    def of(self, architecture: str) -> TrainingDefaults:
        """Return the defaults of an architecture; those of the first for a name that is not the family's."""
        return self.defaults.get(architecture) or next(iter(self.defaults.values()))


# Attention, the embeddings of time, start and duration, and the output: 70 modules, 72 with the duration embedding.
AUDIO_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "time_mlp.0",
    "time_mlp.2",
    "norm_out.linear",
    "proj_out",
)

# Self and cross attention: 192 modules at 24 blocks. Rank and alpha are those of ACE-Step's users,
ACESTEP_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")

FAMILIES: dict[str, Family] = {
    "symbolic": Family(
        "symbolic",
        {"gpt2": TrainingDefaults(LoraSpec(16, 32.0, 0.05, ("c_attn", "c_proj", "c_fc")), 1e-3, 10)},
    ),
    "audio": Family(
        "audio",
        {
            "diffrhythm": TrainingDefaults(LoraSpec(8, 16.0, 0.25, AUDIO_TARGETS), 2e-4, 200),
            "acestep": TrainingDefaults(LoraSpec(64, 64.0, 0.1, ACESTEP_TARGETS), 1e-4, 20),
        },
    ),
}


@dataclass(frozen=True)
class OptimSpec:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) with bias correction, after clipping by global norm.

    Attributes:
        weight_decay: decoupled decay, multiplied by the learning rate at each step; on every trained array.
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
        max_grad_norm: gradients are scaled down to this global L2 norm; 0 means no clipping.
        seed: key of the LoRA dropout masks, together with the step and the module.
        checkpointing: recompute each block's activations in the backward pass instead of keeping them.
        lora_plus_ratio: learning rate of B and of DoRA's magnitudes over that of A (LoRA+, Hayou et al. 2024, arXiv
            2402.12354); decoupled decay follows it, as in PEFT's create_loraplus_optimizer.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpointing: bool = False
    lora_plus_ratio: float = 1.0


@dataclass(frozen=True)
class LossSum:
    """Loss summed over scored targets (nats for tokens), and the number of these targets."""

    total: float
    weight: float

    @property
    def mean(self) -> float:
        return self.total / self.weight if self.weight else float("nan")


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: summed loss and weight over its micro-batches, and the gradient's norm before clipping."""

    loss: float
    weight: float
    grad_norm: float


@dataclass(frozen=True)
class SamplingSpec:
    """Settings of token sampling: temperature, top-k, nucleus sampling, and the end of a row.

    The logits are divided by the temperature and softmaxed in float32. Tokens are sorted by falling probability, ties
    to the lower id. The top_k first are kept (0: all), and of those the tokens whose preceding sum is below top_p.
    After renormalising, the first token whose cumulative sum exceeds the uniform draw is taken. Temperature 0 takes
    the first token of that order. After eos_id a row yields pad_id.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    eos_id: int | None = None
    pad_id: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"--temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            problems.append(f"--top-p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            problems.append(f"--top-k is {self.top_k}; it must be 0 (off) or more")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class ClosedKeys:
    """Keys that the draws of a row close, for what a finite automaton cannot remember.

    A token with a key may be drawn only while its key is open. A drawn token acts in this order: it opens all keys if
    it is in `opens`, it moves the row's offset if it has one, it closes the keys first <= k < last, counted from that
    offset. A row with `limit` closed keys has all of them closed, until a token opens them again.

    Two uses: notes of which none may sound twice at one onset (each closes its own key, a new onset opens all), and
    an ordered block of ids whose draws never fall (each closes all keys below its own; nothing opens them).

    Attributes:
        keys: int32 [V], key of each token; -1 for a token that is always open.
        shifted: bool [V], True where the key counts from the row's offset.
        opens: bool [V].
        offsets: int32 [V], offset of the row from this token on; -1 keeps it.
        first, last: int32 [V], keys that the token closes; none where they are equal.
        limit: number of closed keys that closes all.
        open: bool [K] or [B, K], the open keys of each row after its prompt.
        offset: int32 [B] or an int, the offset of each row after its prompt.
    """

    keys: np.ndarray
    shifted: np.ndarray
    opens: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    last: np.ndarray
    limit: int
    open: np.ndarray
    offset: np.ndarray | int = 0


@dataclass(frozen=True)
class Grammar:
    """Finite automaton over tokens; a token is allowed where its transition is not negative and its key is open.

    Attributes:
        classes: int32 [V], the class of each token.
        transitions: int32 [S, C], next state by state and class; -1 forbids. Every state allows at least one class
            that some token has.
        start: int32 [B] or an int, the state of each row after its prompt.
        closed_keys: what the automaton cannot remember, or None.
    """

    classes: np.ndarray
    transitions: np.ndarray
    start: np.ndarray | int = 0
    closed_keys: ClosedKeys | None = None
