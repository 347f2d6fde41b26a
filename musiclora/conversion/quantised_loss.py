"""Cost of quantising a base: its loss on tokens that the float model draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from musiclora.conversion.compare import usable_backend
from musiclora.errors import ConvertError

if TYPE_CHECKING:
    from musiclora.backends.base import Backend, TokenModel

ROWS, LENGTH_TOKENS = 4, 128  # of the drawn batch


@dataclass(frozen=True)
class LossChange:
    """Losses of two models on one batch, in nats a token; None where no backend could compute them."""

    first: float | None = None
    second: float | None = None
    backend: str = ""

    def describe(self, cause: str) -> str:
        """Format the change as a note that begins with its cause."""
        if self.first is None or self.second is None:
            return f"{cause}: no backend is at hand to measure the loss"
        change = self.second - self.first
        return (
            f"{cause}: loss {self.first:.4f} -> {self.second:.4f} nats a token ({change:+.4f}), "
            f"on tokens that the float model drew, by {self.backend}"
        )


def measure_loss_change(first: Path, second: Path, backend: str = "auto") -> LossChange:
    """Measure the losses of two symbolic models on tokens that the first one draws.

    The result is empty where no backend can run.

    Raises:
        BackendError: a backend that was asked for by name cannot run.
        ConvertError: a loss is infinite or undefined.
    """
    chosen = usable_backend(backend)
    if chosen is None:
        return LossChange()
    model = _load_model(chosen, first)
    batch = _draw_batch(model)
    before = model.loss(batch).mean
    del model
    after = _load_model(chosen, second).loss(batch).mean
    if not (math.isfinite(before) and math.isfinite(after)):
        which = "float" if not math.isfinite(before) else "quantised"
        raise ConvertError(f"{first}: the loss of the {which} model is not finite; its weights are too large")
    return LossChange(before, after, chosen.name)


def _load_model(backend: Backend, folder: Path) -> TokenModel:
    from musiclora.backends.base import FAMILIES

    return cast("TokenModel", backend.load(FAMILIES["symbolic"], folder))


def _draw_batch(model: TokenModel) -> dict[str, np.ndarray]:
    """Generate a batch from each of the model's first tokens, the same in every run."""
    from musiclora.backends.base import SamplingSpec

    steps = min(LENGTH_TOKENS, model.n_positions) - 1
    prompts = (np.arange(ROWS, dtype=np.int32) % model.vocab_size)[:, None]
    drawn = model.generate(prompts, SamplingSpec(), np.random.default_rng(0).random((steps, ROWS), np.float32))
    tokens = np.concatenate([prompts, drawn], axis=1).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return {"tokens": tokens, "loss_mask": mask}
