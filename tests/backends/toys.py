"""Toy GPT-2 models, batches and adapters with the same values on every machine, and plain numpy references."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tolerance import rounding

from musiclora.backends import lora_init
from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.gpt2 import Gpt2Config

CONFIGS = {
    "rectangular": Gpt2Config(vocab_size=29, n_positions=20, n_embd=12, n_layer=2, n_head=3, n_inner=40),
    # c_fc, both c_proj are square: a transposed matrix loads without complaint, and only its values tell.
    "square": Gpt2Config(vocab_size=16, n_positions=24, n_embd=16, n_layer=2, n_head=2, n_inner=16),
    # Three layers, so that the divisors 1, 2 and 3 of the attention logits are told from any other rule.
    "scaled": Gpt2Config(23, 21, n_embd=12, n_layer=3, n_head=2, n_inner=48, scale_attn_by_inverse_layer_idx=True),
}
SPEC = LoraSpec(rank=3, alpha=6.0, dropout=0.0, targets=("c_attn", "c_proj", "c_fc"))
# A step that is proportional to small gradients, where AdamW's is as large for the noise of one that is nearly zero.
PROPORTIONAL = OptimSpec(weight_decay=0.0, eps=1.0, max_grad_norm=0.0)


def formula_tensors(config: Gpt2Config) -> dict[str, np.ndarray]:
    """Weights from the sine of the index, large enough that attention and activations are far from linear."""
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        index = np.arange(np.prod(shape), dtype=np.float64)
        wave = np.sin(index * 1.7 + zlib.crc32(name.encode()) % 1000)
        gain = 0.9 if "wte" in name else 0.35
        base = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
        tensors[name] = (base + gain * wave).reshape(shape).astype(np.float32)
    return tensors


def token_batch(config: Gpt2Config, rows: int = 3, length: int = 13, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens of which about two in three are scored."""
    rng = np.random.default_rng(seed)
    scored = rng.random((rows, length)) < 0.66
    scored[:, 0] = False
    return {"tokens": rng.integers(0, config.vocab_size, (rows, length), dtype=np.int32), "loss_mask": scored}


@dataclass
class Toy:
    """A backend with one checkpoint folder; every model it gives is loaded again."""

    backend: Any
    folder: Path
    config: Gpt2Config

    def load(self) -> Any:
        return self.backend.load(FAMILIES["symbolic"], self.folder)

    def batch(self, **settings: Any) -> dict[str, np.ndarray]:
        return token_batch(self.config, **settings)

    def state(self, spec: LoraSpec = SPEC, seed: int = 1) -> dict[str, np.ndarray]:
        """An adapter whose B is not zero, so that it changes the model and every array has a gradient."""
        state = lora_init.initial(spec, self.config.linear_shapes(), seed)
        if spec.dora:
            state = lora_init.with_magnitudes(state, formula_tensors(self.config).items(), conv1d=True)
        rng = np.random.default_rng(seed)
        return {k: v + rng.normal(0, 0.1, v.shape).astype(np.float32) for k, v in state.items()}

    def adapted(self, spec: LoraSpec = SPEC, state: dict[str, np.ndarray] | None = None) -> Any:
        model = self.load()
        model.inject_adapter(spec, self.state(spec) if state is None else state)
        return model

    def gradient(self, state: dict[str, np.ndarray], batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The adapter's gradient, read off a first AdamW step whose eps outweighs everything.

        With eps = 1 and no decay that step is -lr g / (|g| + 1), which has one solution g.
        """
        model = self.adapted(state=state)
        optim = OptimSpec(weight_decay=0.0, eps=1.0, max_grad_norm=0.0)
        model.start_training(optim).step(batches, 1.0)
        return step_gradient(state, model.read_adapter())


def path(config: Gpt2Config, length: int) -> int:
    """Return the number of roundings on the longest path from tokens to logits, for `tolerance.rounding`."""
    width = config.n_embd
    attention = 2 * width + width // config.n_head + 2 * length + width  # norm, c_attn, scores, softmax, values, c_proj
    mlp = 2 * width + config.n_inner + 10  # norm, c_fc, c_proj, activation
    return config.n_layer * (attention + mlp) + 2 * width


def step_gradient(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read the gradient g off a first AdamW step of size 1 with eps = 1 and no decay: -g / (|g| + 1)."""
    moved = {k: (before[k] - v).astype(np.float64) for k, v in after.items()}
    return {k: v / (1 - np.abs(v)) for k, v in moved.items()}


def gradient_tolerance(config: Gpt2Config, tokens: int, length: int, *arrays: dict[str, np.ndarray]) -> float:
    """Bound the difference of two computations of a gradient of the mean loss.

    It goes forth and back through the model and sums over all tokens; `arrays` are the gradients, and the parameters
    where it is read off a step of these.
    """
    largest = max(float(np.abs(v).max()) for given in arrays for v in given.values())
    return rounding(2 * path(config, length) + tokens, largest)


def norm(arrays: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(v, dtype=np.float64)) for v in arrays.values())))


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Bit for bit: for copies, and for one computation repeated by one process."""
    assert sorted(left) == sorted(right)
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def assert_close(left: dict[str, np.ndarray], right: dict[str, np.ndarray], tolerance: float) -> None:
    assert sorted(left) == sorted(right)
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=0, atol=tolerance, err_msg=name)


def assert_near_gradients(toy, batch, left, right):
    """Compare two adapters after one PROPORTIONAL step of size 1 from the toy's state."""
    start = toy.state()
    found, expected = step_gradient(start, left), step_gradient(start, right)
    tokens = batch["tokens"]
    assert_close(found, expected, gradient_tolerance(toy.config, tokens.size, tokens.shape[1], expected, start))
