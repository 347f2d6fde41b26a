"""Interface that every backend implements; it also exports the records that cross it (numpy only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from musiclora.backends.generation_session import GenerationSession
from musiclora.backends.records import (
    AUDIO_TARGETS,
    FAMILIES,
    ClosedKeys,
    Family,
    Grammar,
    LossSum,
    OptimSpec,
    SamplingSpec,
    StepResult,
)
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.files.safetensors_file import Arrays

__all__ = [
    "AUDIO_TARGETS",
    "FAMILIES",
    "Arrays",
    "Backend",
    "ClosedKeys",
    "Codec",
    "ConditionEncoder",
    "Family",
    "FlowModel",
    "GenerationSession",
    "Grammar",
    "LoraSpec",
    "LossSum",
    "Model",
    "OptimSpec",
    "SamplingSpec",
    "StepResult",
    "TextEncoder",
    "TokenModel",
    "Training",
]


class Training(Protocol):
    """Model together with its optimiser."""

    def step(self, micro_batches: Sequence[Arrays], lr: float) -> StepResult:
        """Make one AdamW update from the gradient of (sum of losses) / (sum of weights) over the micro-batches.

        A non-finite loss or gradient leaves arrays and optimiser untouched and is returned as it is.
        """

    def read_state(self) -> Arrays:
        """Copy step count and moments (not the trained arrays), enough to resume exactly."""

    def write_state(self, state: Arrays) -> None:
        """Invert read_state.

        Raises:
            ConvertError: missing, surplus, mis-shaped or non-finite arrays, all named at once.
        """


class Model(Protocol):
    """Loaded checkpoint, with or without one adapter."""

    def weight(self, batch: Arrays) -> float:
        """Count the scored targets of the batch: tokens, or latent values inside the valid frames."""

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of every module that can carry LoRA, by its canonical path, in model order."""

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes and fill it; a second call replaces the first adapter.

        Raises:
            ConfigError: a target matches nothing.
            ConvertError: names or shapes of initial differ from those that spec needs, or values are not finite; all
                problems at once.
        """

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> Training:
        """Create a trainer of the adapter or of all base weights."""

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""

    def set_adapter(self, enabled: bool) -> None:
        """Switch the adapter; off gives the base's results bit for bit."""

    def read_adapter(self) -> Arrays:
        """Copy the adapter, float32: `<module>.lora_A.weight` [rank, in], `<module>.lora_B.weight` [out, rank].

        A DoRA adapter has `<module>.lora_magnitude_vector` [out] as well.
        """

    def write_adapter(self, state: Arrays) -> None:
        """Invert read_adapter.

        Raises:
            ConvertError: missing, surplus, mis-shaped or non-finite arrays, all named at once.
        """

    def fuse(self) -> None:
        """Add scale * B @ A to the weights (summed in float32, cast once) and drop the adapter.

        The rows of the sum are scaled to a DoRA adapter's magnitudes.
        """

    def read_weights(self) -> Iterable[tuple[str, np.ndarray]]:
        """Yield base weights one by one under canonical names and layouts."""


class TokenModel(Model, Protocol):
    """Decoder over tokens.

    Attributes:
        vocab_size: number of tokens.
        n_positions: longest sequence.
    """

    vocab_size: int
    n_positions: int

    def logits(self, batch: Arrays) -> np.ndarray:
        """Compute next-token logits, float32 [B, L, V]."""

    def token_losses(self, batch: Arrays) -> np.ndarray:
        """Compute the cross-entropy of each scored target in nats, float32 [B, L]; 0 elsewhere.

        The values add up to `loss`. The logits of all tokens never exist at once.
        """

    def start_generation(self, batch: int, capacity: int, spec: SamplingSpec) -> GenerationSession:
        """Start a session of empty rows.

        Args:
            batch: number of rows.
            capacity: most tokens of a row, at most n_positions.
            spec: settings of the sampler.

        Raises:
            DataError: numbers or a pad_id that do not fit.
        """

    def generate(
        self,
        prompts: np.ndarray,
        spec: SamplingSpec,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Continue prompts.

        Args:
            prompts: int32 [B, n], n at least 1 and n + steps at most n_positions.
            spec: settings of the sampler.
            uniforms: float32 [steps, B] in [0, 1), one draw a token.
            grammar: forbids tokens by an automaton.
            on_tokens: called with int32 [B, k] blocks of new tokens, about every 16 tokens; the blocks add up to the
                result.

        Returns:
            int32 [B, steps], the new tokens without the prompt; pad_id after a row's eos_id.

        Raises:
            DataError: shapes, lengths or ids that do not fit, or logits that are not finite.
            ConfigError: a grammar that does not fit.
        """


class FlowModel(Model, Protocol):
    """Velocity field over latents (flow matching), and one style that may be trained with its adapter.

    A flow batch of ACE-Step is described in `acestep_batches`. That of DiffRhythm holds `latents`, `noise` float32
    [B, T, C], `time` float32 [B] in [0, 1], `valid` bool [B, T], `start_time` float32 [B] and, where the model has it,
    `duration` float32 [B]; optionally `cond` [B, T, C] (zeros), `text` int32 [B, T] (zeros), `style` [B, style width]
    (the model's own style vector where it has one, else zeros), and the scalars `drop_audio`, `drop_text`, `drop_style`
    (False), each for the whole batch. The loss is the squared error of the velocity at (1 - time) noise + time latents
    against latents - noise, summed over all values of valid frames.

    Attributes:
        latent_channels: C.
        max_frames: longest T.
        has_duration: whether `duration` is a condition.
    """

    latent_channels: int
    max_frames: int
    has_duration: bool

    def set_style(self, style: np.ndarray | None) -> None:
        """Set the model's own style vector [style width] or trained condition [K, D], or remove it.

        It replaces `style`, or `condition`, in batches and conditionings that have none; without it zeros do, or the
        null condition. A training of the adapter that is started afterwards trains it too; its moments are
        `exp_avg.style` and `exp_avg_sq.style` of the training's state.

        Raises:
            DataError: another shape, or values that are not finite.
        """

    def read_style(self) -> np.ndarray | None:
        """Copy the model's own style vector or trained condition, float32; None without one."""

    def prepare(self, conditioning: Arrays) -> Any:
        """Compute everything that does not depend on time, once.

        Args:
            conditioning: a flow batch without latents, noise and time, plus `negative_style` [B, style width]
                (zeros).
        """

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray:
        """Compute the velocity of x at a time with classifier-free guidance, v = p + guidance (p - q).

        The velocity p has the given conditioning. The velocity q has the negative style and no audio and text
        conditions; it is computed in the same pass. Guidance below 1e-5 computes p alone.

        Args:
            x: float32 [B, T, C].
            time: in [0, 1], a scalar or [B].
            prepared: result of `prepare`.
            guidance: strength; the usual guidance scale minus one.

        Returns:
            float32 [B, T, C].
        """

    def velocities(self, x: np.ndarray, time: float | np.ndarray, prepared: Any) -> tuple[np.ndarray, np.ndarray]:
        """Compute the velocities p and q of `velocity` in one pass over 2 B rows, for other kinds of guidance.

        Args:
            x: float32 [B, T, C].
            time: in [0, 1], a scalar or [B].
            prepared: result of `prepare`.

        Returns:
            The conditional and the unconditional velocity, each float32 [B, T, C].
        """


class Codec(Protocol):
    """Variational auto-encoder of the audio family.

    Attributes:
        sample_rate: in Hz.
        hop: samples per latent frame.
        latent_channels: C.
        audio_channels: 2 for stereo.
    """

    sample_rate: int
    hop: int
    latent_channels: int
    audio_channels: int

    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode float32 audio [B, 2, N] to the posterior's mean and scale, float32 [B, T, C]; T = floor(N / hop).

        The posterior's standard deviation is softplus(scale) + 1e-4.
        """

    def decode(self, latents: np.ndarray, chunk: int | None = None, overlap: int | None = None) -> np.ndarray:
        """Decode latents [B, T, C] to audio float32 [B, 2, hop T]; chunk and overlap count frames.

        Without chunk everything is decoded at once. With it, chunks of that many frames advance by chunk - overlap, the
        last one ends with the latents, and each gives up half the overlap at its inner edges.
        """


class TextEncoder(Protocol):
    """Language model whose last hidden states stand for a text.

    Attributes:
        width: of a hidden state.
    """

    width: int

    def encode(self, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Compute the last hidden states.

        Args:
            ids: token ids, int [B, L]; padding may hold anything.
            valid: bool [B, L], False in padding, which never reaches the network.

        Returns:
            float32 [B, L, width], zeros in padding.

        Raises:
            DataError: shapes or ids that do not fit.
        """

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Look up token embeddings, float32 [B, L, width], of ids int [B, L].

        Raises:
            DataError: shapes or ids that do not fit.
        """


class ConditionEncoder(Protocol):
    """Encoder of text, lyrics and timbre to the condition of a flow model.

    Attributes:
        width: D, of a row of the condition.
    """

    width: int

    def encode(
        self,
        text: np.ndarray,
        text_valid: np.ndarray,
        lyrics: np.ndarray,
        lyrics_valid: np.ndarray,
        references: np.ndarray,
        owners: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode lyrics, timbre and text of each example to one sequence; padding never reaches the network.

        Args:
            text: output of the text encoder, float32 [B, L, text width].
            text_valid: bool [B, L], False in padding.
            lyrics: token embeddings, float32 [B, M, text width].
            lyrics_valid: bool [B, M].
            references: latents of reference recordings, float32 [R, F, C]; silence where an example has none.
            owners: int [R], the example that each reference belongs to.

        Returns:
            Condition float32 [B, S, D], zeros in padding, and bool [B, S], True in its rows, which come first.

        Raises:
            DataError: shapes that do not fit, or valid values that are not finite.
        """


class Backend(Protocol):
    """Implementation of the models in one framework."""

    name: str

    def load(self, family: Family, checkpoint: Path, *, dtype: str = "float32") -> Model:
        """Load a checkpoint folder (hf or mlx layout); every tensor name is proven used and filled."""

    def load_codec(self, checkpoint: Path, *, dtype: str = "float32") -> Codec:
        """Load the audio family's codec: its folder, the audio model's folder that holds it as `vae`, or a file."""

    def load_text_encoder(self, folder: Path, *, dtype: str = "float32") -> TextEncoder:
        """Load a text encoder's folder; every tensor name is proven used and filled."""

    def load_condition_encoder(self, checkpoint: Path, *, dtype: str = "float32") -> ConditionEncoder:
        """Load the condition encoder of an audio model's folder; likewise."""

    def device(self) -> str:
        """Describe the device in words, such as `Metal (Apple M1 Pro)`, `cuda (NVIDIA GeForce RTX 4090)` or `cpu`."""

    def peak_memory(self) -> int:
        """Measure peak bytes since the start of the process or the last reset."""
