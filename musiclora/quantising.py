"""What quantising a base costs: the loss on tokens that the float model draws itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.errors import BackendError
from musiclora.verification import Converted

ROWS, LENGTH = 4, 128  # of the batch that is drawn


@dataclass(frozen=True)
class Quantised(Converted):
    """As Converted, with what it cost.

    Attributes:
        bits: of an element.
        loss, float_loss: nats a token of the quantised and of the float model, on tokens that the float model drew;
            None where no backend is at hand.
    """

    bits: int = 0
    loss: float | None = None
    float_loss: float | None = None


@dataclass(frozen=True)
class Losses:
    """Nats a token of two models on one batch; None where nothing could compute them."""

    first: float | None = None
    second: float | None = None
    backend: str = ""

    def words(self, what: str) -> str:
        """The change as a note; what says which change it is."""
        if self.first is None or self.second is None:
            return f"{what}: no backend is at hand to measure the loss"
        change = self.second - self.first
        return (
            f"{what}: loss {self.first:.4f} -> {self.second:.4f} nats a token ({change:+.4f}), "
            f"on tokens that the float model drew, by {self.backend}"
        )


def own_loss(first: Path, second: Path, backend: str = "auto") -> Losses:
    """Losses of two symbolic models on tokens that the first one draws; empty where no backend can run.

    Raises:
        BackendError: a backend that was asked for by name cannot run.
    """
    from musiclora.backends.base import FAMILIES
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return Losses()
    load = get_backend(name).load
    model = load(FAMILIES["symbolic"], first)
    batch = _drawn(model)
    before = model.loss(batch).mean
    del model
    return Losses(before, load(FAMILIES["symbolic"], second).loss(batch).mean, name)


def _drawn(model: Any) -> dict[str, np.ndarray]:
    """A batch that the model generates from each of its first tokens, the same for every run."""
    from musiclora.backends.base import SamplingSpec

    steps = min(LENGTH, model.n_positions) - 1
    prompts = (np.arange(ROWS, dtype=np.int32) % model.vocab_size)[:, None]
    drawn = model.generate(prompts, SamplingSpec(), np.random.default_rng(0).random((steps, ROWS), np.float32))
    tokens = np.concatenate([prompts, drawn], axis=1).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return {"tokens": tokens, "loss_mask": mask}
