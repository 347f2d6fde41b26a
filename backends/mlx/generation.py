"""Token generation on MLX: one fixed-shape step per token, queued ahead of the device, with a preallocated KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Grammar, SamplingSpec
from musiclora.backends.mlx import attention, decoder, device, lora, ops, products, quantised
from musiclora.backends.mlx.quantised import Weights
from musiclora.backends.mlx.sampler import Automaton, sample
from musiclora.backends.token_requests import CHECK_EVERY_TOKENS, GeneratedTokens, check_request
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.models.gpt2 import Gpt2Config

_State = dict[str, mx.array]
AttendToCache = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


class DecodableModel(Protocol):
    """A decoder whose adapter can be merged into a copy of its weights."""

    @property
    def config(self) -> Gpt2Config: ...

    def merged_weights(self) -> Weights: ...


@dataclass(frozen=True)
class DecodeMode:
    """KV-cache bucket size and whether the decode step is compiled.

    Attention reads the cache up to the next multiple of the bucket. Compiled steps need few different shapes, so a
    GPU reads whole buckets through a mask. On the CPU build the exact length costs less than compiling saves.

    Attributes:
        bucket: positions.
        compiled: whether `mx.compile` runs the step.
    """

    bucket: int
    compiled: bool

    @classmethod
    def for_device(cls) -> DecodeMode:
        """Choose the mode for the default device."""
        return cls(256, True) if device.is_gpu() else cls(1, False)


class Decoding:
    """Prefill and decode step of one generation; all state is in a dictionary of arrays."""

    def __init__(
        self, config: Gpt2Config, weights: Weights, spec: SamplingSpec, automaton: Automaton | None, mode: DecodeMode
    ) -> None:
        self._config, self._weights, self._spec, self._automaton, self._mode = config, weights, spec, automaton, mode
        self._steps: dict[int, Callable[[Weights, _State, mx.array], _State]] = {}

    def start(self, prompts: mx.array, u: mx.array, capacity: int) -> _State:
        """Run the prompts [B, n] and draw the first token; capacity is the number of positions to keep."""
        batch, length = prompts.shape
        config = self._config
        capacity = -(-capacity // self._mode.bucket) * self._mode.bucket
        shape = (2, batch, config.n_head, capacity, config.n_embd // config.n_head)
        dtype = self._weights[decoder.LAST_NORM].dtype
        state = {f"cache.{i}": mx.zeros(shape, dtype) for i in range(config.n_layer)}
        state |= {"offset": mx.array(0, mx.int32), "done": mx.zeros((batch,), mx.bool_), "bad": mx.array(False)}
        if self._automaton:
            state |= self._automaton.start
        x = decoder.embed(prompts, None, self._weights)
        x = self._run_layers(self._weights, x, state, lambda q, k, v, cache: attention.attend_causally(q, k, v, None))
        state["offset"] = state["offset"] + length
        return self._draw_tokens(self._weights, x[:, -1], state, u)

    def step(self, state: _State, u: mx.array, length: int) -> _State:
        """Feed the newest token, which brings the cache to length, and draw the next one."""
        visible = -(-length // self._mode.bucket) * self._mode.bucket
        if visible not in self._steps:
            self._steps = {visible: self._build_step(visible)}  # earlier lengths never come back
        return self._steps[visible](self._weights, state, u)

    def _build_step(self, visible: int) -> Callable[[Weights, _State, mx.array], _State]:
        def attend(q: mx.array, k: mx.array, v: mx.array, cache: mx.array) -> mx.array:
            keys, values = cache[0, :, :, :visible], cache[1, :, :, :visible]
            return mx.fast.scaled_dot_product_attention(q, keys, values, scale=q.shape[-1] ** -0.5, mask=self._seen)

        def run(weights: Weights, state: _State, u: mx.array) -> _State:
            state = dict(state)
            self._seen = mx.arange(visible) <= state["offset"] if self._mode.bucket > 1 else None
            x = decoder.lookup(state["token"], decoder.EMBEDDING, weights)
            x = x + decoder.lookup(state["offset"], decoder.POSITIONS, weights)
            x = self._run_layers(weights, x[:, None], state, attend)
            state["offset"] = state["offset"] + 1
            return self._draw_tokens(weights, x[:, 0], state, u)

        return mx.compile(run) if self._mode.compiled else run

    def _run_layers(self, weights: Weights, x: mx.array, state: _State, attend: AttendToCache) -> mx.array:
        """Apply all blocks to x [B, L, d] and write keys and values at the offset; returns normalised states."""
        config, eps = self._config, self._config.layer_norm_epsilon
        batch, length, width = x.shape
        x = x.reshape(batch * length, width)
        for i in range(config.n_layer):
            at = f"transformer.h.{i}"
            qkv = _merged_linear(decoder.layer_norm(x, f"{at}.ln_1", weights, eps), f"{at}.attn.c_attn", weights)
            qkv = qkv.reshape(batch, length, 3, config.n_head, -1).transpose(2, 0, 3, 1, 4)
            cache = mx.slice_update(state[f"cache.{i}"], qkv[1:], state["offset"].reshape(1), (3,))
            state[f"cache.{i}"] = cache
            seen = attend(qkv[0], qkv[1], qkv[2], cache).transpose(0, 2, 1, 3).reshape(x.shape)
            x = x + _merged_linear(seen, f"{at}.attn.c_proj", weights)
            inner = _merged_linear(decoder.layer_norm(x, f"{at}.ln_2", weights, eps), f"{at}.mlp.c_fc", weights)
            inner = ops.ACTIVATION_FUNCTIONS[config.activation_function](inner)
            x = x + _merged_linear(inner, f"{at}.mlp.c_proj", weights)
        return decoder.layer_norm(x, "transformer.ln_f", weights, eps).reshape(batch, length, width)

    def _draw_tokens(self, weights: Weights, hidden: mx.array, state: _State, u: mx.array) -> _State:
        """Draw a token a row from the states [B, d]; rows that have ended yield pad_id."""
        parts = quantised.find(weights, decoder.EMBEDDING.removesuffix(".weight"))
        scores = (
            quantised.packed_product(hidden, parts)
            if parts
            else products.split_head(hidden, weights[decoder.EMBEDDING])
        )
        scores = scores.astype(mx.float32)
        if self._automaton:
            scores = self._automaton.restrict(scores, state)
        token, done = sample(scores, u, self._spec), state["done"]
        top = scores.max(axis=-1)
        state["bad"] = state["bad"] | mx.any(mx.logical_or(mx.isnan(top), mx.isinf(top)))
        if self._automaton:
            moved = self._automaton.follow(state, token)
            state |= moved | {"automaton": mx.where(done, state["automaton"], moved["automaton"])}
        if self._spec.eos_id is not None:
            token = mx.where(done, self._spec.pad_id, token)
            state["done"] = done | (token == self._spec.eos_id)
        state["token"] = token
        return state


def _merged_linear(x: mx.array, name: str, weights: Weights) -> mx.array:
    parts, bias = quantised.find(weights, name), weights[f"{name}.bias"]
    if parts is None:
        return products.split_linear(x, weights[f"{name}.weight"], bias)
    y, (key_a, key_b) = quantised.packed_product(x, parts) + bias, state_keys(name)
    # Nothing is fused into a quantised weight: the adapter computes beside it, its scale already in B.
    return lora.adapted(x, y, weights[key_a], weights[key_b], 1.0, None) if key_a in weights else y


def _stream_states(decoding: Decoding, prompts: mx.array, draws: mx.array) -> Iterator[_State]:
    """Yield the state after each token; the next step is queued before it is read."""
    steps, length = draws.shape[0], prompts.shape[1]
    state = decoding.start(prompts, draws[0], length + steps)
    mx.async_eval(state)  # type: ignore[no-untyped-call]
    for i in range(1, steps):
        shown = {key: state[key] for key in ("token", "done", "bad")}
        # Release the old caches before the new ones are evaluated: MLX then writes in place. Caches that are still
        # referenced are copied whole for every token.
        state = decoding.step(state, draws[i], length + i)
        mx.async_eval(state)  # type: ignore[no-untyped-call]
        yield shown
    yield state


def generate(
    model: DecodableModel,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
    mode: DecodeMode | None = None,
) -> np.ndarray:
    """Continue prompts with the adapter, if it is on, added to a copy of the weights; see `TokenModel.generate`.

    Raises:
        DataError: shapes, lengths or ids that do not fit, or logits that are not finite.
        ConfigError: a grammar that does not fit.
    """
    prompts, uniforms, config = np.asarray(prompts), np.asarray(uniforms, np.float32), model.config
    sizes = {"vocab_size": config.vocab_size, "n_positions": config.n_positions}
    check_request(prompts, spec, uniforms, grammar, **sizes)
    steps, batch = uniforms.shape
    found = GeneratedTokens(batch, steps, spec.pad_id, on_tokens)
    if not steps:
        return found.tokens
    automaton = Automaton.load(grammar, batch) if grammar else None
    decoding = Decoding(config, model.merged_weights(), spec, automaton, mode or DecodeMode.for_device())
    pending: list[mx.array] = []
    stream = _stream_states(decoding, mx.array(prompts.astype(np.int32)), mx.array(uniforms))
    for i, state in enumerate(stream):
        pending.append(state["token"])
        if len(pending) < CHECK_EVERY_TOKENS and i + 1 < steps:
            continue
        block, pending = np.array(mx.stack(pending, axis=1)), []
        ended = bool(mx.all(state["done"]).item())
        if found.add_block(block, finite=not state["bad"].item(), ended=ended):
            break
    return found.tokens
