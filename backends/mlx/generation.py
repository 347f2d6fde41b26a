"""Generation on MLX: one fixed-shape step a token, queued ahead of the device, with a preallocated cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Grammar, SamplingSpec
from musiclora.backends.mlx import attention, decoder, device, lora, ops, products, quantised
from musiclora.backends.mlx.lora import Weights
from musiclora.backends.mlx.sampler import Automaton, sample
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.errors import BackendError, DataError, join_problems
from musiclora.convert.models.gpt2 import Gpt2Config

if TYPE_CHECKING:
    from musiclora.backends.mlx.gpt2 import MlxGpt2

CHECKED = 16  # tokens between two looks at the device
_State = dict[str, mx.array]
Attend = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Pace:
    """How a step is run: the cache is looked at in multiples of `bucket` positions, compiled or not.

    Compiled steps need few different shapes, so a GPU looks at whole buckets through a mask; on the CPU build the
    exact length is cheaper than what compiling saves.
    """

    bucket: int
    compiled: bool

    @classmethod
    def here(cls) -> Pace:
        return cls(256, True) if device.is_gpu() else cls(1, False)


class Decoding:
    """The functions of one generation: prefill, then one step a token. All state is in a dictionary of arrays."""

    def __init__(
        self, config: Gpt2Config, weights: Weights, spec: SamplingSpec, automaton: Automaton | None, pace: Pace
    ) -> None:
        self._config, self._weights, self._spec, self._automaton, self._pace = config, weights, spec, automaton, pace
        self._steps: dict[int, Callable[[Weights, _State, mx.array], _State]] = {}

    def start(self, prompts: mx.array, u: mx.array, capacity: int) -> _State:
        """Run the prompts [B, n] and draw the first token; capacity is the number of positions to keep."""
        batch, length = prompts.shape
        config = self._config
        capacity = -(-capacity // self._pace.bucket) * self._pace.bucket
        shape = (2, batch, config.n_head, capacity, config.n_embd // config.n_head)
        dtype = self._weights[decoder.LAST_NORM].dtype
        state = {f"cache.{i}": mx.zeros(shape, dtype) for i in range(config.n_layer)}
        state |= {"offset": mx.array(0, mx.int32), "done": mx.zeros((batch,), mx.bool_), "bad": mx.array(False)}
        if self._automaton:
            state["automaton"] = self._automaton.start
        x = decoder.embed(prompts, None, self._weights)
        x = self._layers(self._weights, x, state, lambda q, k, v, cache: attention.attend(q, k, v, None))
        state["offset"] = state["offset"] + length
        return self._draw(self._weights, x[:, -1], state, u)

    def step(self, state: _State, u: mx.array, length: int) -> _State:
        """Feed the newest token, which brings the cache to length, and draw the next one."""
        visible = -(-length // self._pace.bucket) * self._pace.bucket
        if visible not in self._steps:
            self._steps = {visible: self._build(visible)}  # earlier lengths never come back
        return self._steps[visible](self._weights, state, u)

    def _build(self, visible: int) -> Callable[[Weights, _State, mx.array], _State]:
        def attend(q: mx.array, k: mx.array, v: mx.array, cache: mx.array) -> mx.array:
            keys, values = cache[0, :, :, :visible], cache[1, :, :, :visible]
            return mx.fast.scaled_dot_product_attention(q, keys, values, scale=q.shape[-1] ** -0.5, mask=self._seen)

        def run(weights: Weights, state: _State, u: mx.array) -> _State:
            state = dict(state)
            self._seen = mx.arange(visible) <= state["offset"] if self._pace.bucket > 1 else None
            x = decoder.lookup(state["token"], decoder.EMBEDDING, weights)
            x = x + decoder.lookup(state["offset"], decoder.POSITIONS, weights)
            x = self._layers(weights, x[:, None], state, attend)
            state["offset"] = state["offset"] + 1
            return self._draw(weights, x[:, 0], state, u)

        return mx.compile(run) if self._pace.compiled else run

    def _layers(self, weights: Weights, x: mx.array, state: _State, attend: Attend) -> mx.array:
        """All blocks on x [B, L, d], writing keys and values at the offset; the states after the last norm."""
        config, eps = self._config, self._config.layer_norm_epsilon
        batch, length, width = x.shape
        x = x.reshape(batch * length, width)
        for i in range(config.n_layer):
            at = f"transformer.h.{i}"
            qkv = _linear(decoder.norm(x, f"{at}.ln_1", weights, eps), f"{at}.attn.c_attn", weights)
            qkv = qkv.reshape(batch, length, 3, config.n_head, -1).transpose(2, 0, 3, 1, 4)
            cache = mx.slice_update(state[f"cache.{i}"], qkv[1:], state["offset"].reshape(1), (3,))
            state[f"cache.{i}"] = cache
            seen = attend(qkv[0], qkv[1], qkv[2], cache).transpose(0, 2, 1, 3).reshape(x.shape)
            x = x + _linear(seen, f"{at}.attn.c_proj", weights)
            inner = _linear(decoder.norm(x, f"{at}.ln_2", weights, eps), f"{at}.mlp.c_fc", weights)
            inner = ops.ACTIVATIONS[config.activation_function](inner)
            x = x + _linear(inner, f"{at}.mlp.c_proj", weights)
        return decoder.norm(x, "transformer.ln_f", weights, eps).reshape(batch, length, width)

    def _draw(self, weights: Weights, hidden: mx.array, state: _State, u: mx.array) -> _State:
        """Draw a token a row from the states [B, d]; rows that have ended yield pad_id."""
        parts = quantised.find(weights, decoder.EMBEDDING.removesuffix(".weight"))
        scores = quantised.product(hidden, parts) if parts else products.head(hidden, weights[decoder.EMBEDDING])
        scores = scores.astype(mx.float32)
        if self._automaton:
            scores = self._automaton.restrict(scores, state["automaton"])
        token, done = sample(scores, u, self._spec), state["done"]
        top = scores.max(axis=-1)
        state["bad"] = state["bad"] | mx.any(mx.logical_or(mx.isnan(top), mx.isinf(top)))
        if self._automaton:
            state["automaton"] = mx.where(done, state["automaton"], self._automaton.follow(state["automaton"], token))
        if self._spec.eos_id is not None:
            token = mx.where(done, self._spec.pad_id, token)
            state["done"] = done | (token == self._spec.eos_id)
        state["token"] = token
        return state


def _linear(x: mx.array, name: str, weights: Weights) -> mx.array:
    parts, bias = quantised.find(weights, name), weights[f"{name}.bias"]
    if parts is None:
        return products.linear(x, weights[f"{name}.weight"], bias)
    y, (key_a, key_b) = quantised.product(x, parts) + bias, state_keys(name)
    # Nothing is fused into a quantised weight: the adapter computes beside it, its scale already in B.
    return lora.adapted(x, y, weights[key_a], weights[key_b], 1.0, None) if key_a in weights else y


def _check(model: MlxGpt2, prompts: np.ndarray, uniforms: np.ndarray) -> None:
    if prompts.ndim != 2 or uniforms.ndim != 2 or not prompts.size:
        raise DataError(f"generate needs prompts [B, n] and uniforms [steps, B]; got {prompts.shape}, {uniforms.shape}")
    (batch, length), (steps, draws) = prompts.shape, uniforms.shape
    problems = []
    if draws != batch:
        problems.append(f"uniforms have {draws} columns, prompts {batch} rows")
    if length + steps > model.n_positions:
        problems.append(f"{length} tokens and {steps} new ones exceed the model's {model.n_positions} positions")
    if not 0 <= prompts.min() <= prompts.max() < model.vocab_size:
        problems.append(f"ids go from {prompts.min()} to {prompts.max()}; allowed are 0 to {model.vocab_size - 1}")
    if problems:
        raise DataError(f"generate: {join_problems(problems)}")


def _tokens(decoding: Decoding, prompts: mx.array, draws: mx.array) -> Iterator[_State]:
    """States after each token, computed ahead of whoever reads them."""
    steps, length = draws.shape[0], prompts.shape[1]
    state = decoding.start(prompts, draws[0], length + steps)
    mx.async_eval(state)  # type: ignore[no-untyped-call]
    for i in range(1, steps):
        shown = {key: state[key] for key in ("token", "done", "bad")}
        # The old caches are let go before they are evaluated into new ones: MLX then writes in place; held, they
        # would be copied whole for every token.
        state = decoding.step(state, draws[i], length + i)
        mx.async_eval(state)  # type: ignore[no-untyped-call]
        yield shown
    yield state


def generate(
    model: MlxGpt2,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
    pace: Pace | None = None,
) -> np.ndarray:
    """Continue prompts with the adapter, if it is on, added to a copy of the weights; see `TokenModel.generate`.

    Raises:
        DataError: shapes or ids that do not fit the model.
        BackendError: logits that are not finite.
    """
    prompts, uniforms = np.asarray(prompts), np.asarray(uniforms, np.float32)
    _check(model, prompts, uniforms)
    steps, batch = uniforms.shape
    out = np.full((batch, steps), spec.pad_id, np.int32)
    if not steps:
        return out
    automaton = Automaton.load(grammar, batch) if grammar else None
    decoding = Decoding(model.config, model.merged_weights(), spec, automaton, pace or Pace.here())
    pending: list[mx.array] = []
    stream = _tokens(decoding, mx.array(prompts.astype(np.int32)), mx.array(uniforms))
    for i, state in enumerate(stream):
        pending.append(state["token"])
        if len(pending) < CHECKED and i + 1 < steps:
            continue
        first = i + 1 - len(pending)
        out[:, first : i + 1] = np.array(mx.stack(pending, axis=1))
        pending = []
        if state["bad"].item():
            raise BackendError(f"generate: the logits of tokens {first} to {i} are not finite; the weights are damaged")
        if on_tokens:
            on_tokens(out[:, first : i + 1].copy())
        if bool(mx.all(state["done"]).item()):
            break
    return out
