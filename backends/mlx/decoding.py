"""Forward pass of generation on MLX: blocks of given tokens and single steps over a preallocated KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musiclora.backends.base import SamplingSpec
from musiclora.backends.generation_rows import GenerationRows
from musiclora.backends.mlx import decoder, device, lora
from musiclora.backends.mlx.kernels import attention, ops, products, quantised
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.sampler import Automaton, State, sample
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.models.gpt2 import Gpt2Config

CACHE = "cache."  # of a layer, in the state
Span = tuple[int, int]
_Step = Callable[[Weights, State, mx.array], State]
_Attend = Callable[[mx.array, mx.array, mx.array, mx.array, float], mx.array]


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

    def round_up(self, length: int) -> int:
        """Return the number of positions of the cache that attention reads for a length."""
        return -(-length // self.bucket) * self.bucket


class Decoding:
    """Blocks and steps of one session; what changes is in a dictionary of arrays, the state.

    The state holds `cache.<layer>` [2, B, H, capacity, D], keys and values; `offset` int32, the position of the next
    token, a scalar where it is one for all rows, else [B]; `token` int32 [B], the newest; `done` bool [B]; `bad`,
    whether any logit so far was not finite; and what the automaton needs.

    Attributes:
        automaton: the grammar of the steps, or None; assigning another one forgets compiled steps.
    """

    def __init__(self, config: Gpt2Config, weights: Weights, spec: SamplingSpec, mode: DecodeMode) -> None:
        self._config, self._weights, self._spec, self._mode = config, weights, spec, mode
        self._scales = config.attention_scales()
        self._automaton: Automaton | None = None
        self._steps: dict[tuple[int, bool, Span], _Step] = {}

    @property
    def automaton(self) -> Automaton | None:
        return self._automaton

    @automaton.setter
    def automaton(self, value: Automaton | None) -> None:
        if value is not self._automaton:
            self._automaton, self._steps = value, {}

    def empty_caches(self, batch: int, capacity: int) -> State:
        """Allocate the caches for so many positions."""
        config = self._config
        shape = (2, batch, config.n_head, self._mode.round_up(capacity), config.n_embd // config.n_head)
        dtype = self._weights[decoder.LAST_NORM].dtype
        return {f"{CACHE}{i}": mx.zeros(shape, dtype) for i in range(config.n_layer)}

    def block(self, state: State, rows: GenerationRows, span: Span, u: mx.array) -> State:
        """Feed the tokens of each row that are not in the cache and draw the next one.

        Args:
            state: whose offset and token are ignored.
            rows: the tokens.
            span: see `step`.
            u: float32 [B], the draw of each row.
        """
        state, feed = dict(state), rows.next_feed()
        batch, width = feed.tokens.shape
        # A long row that feeds few tokens feeds some before them again, so that nothing is written past the end.
        starts = np.minimum(feed.starts, rows.capacity - width)
        columns = starts[:, None] + np.arange(width)
        start, level = int(starts[0]), bool((starts == starts[0]).all())
        positions = slice(start, start + width) if level else _integers(columns)
        visible, seen = self._mode.round_up(int(starts.max()) + width), None
        if starts.any():
            seen = mx.arange(visible) <= _integers(columns[: 1 if level else None])[:, None, :, None]

        def attend(q: mx.array, k: mx.array, v: mx.array, cache: mx.array, scale: float) -> mx.array:
            if seen is None:
                return attention.attend_causally(q, k, v, None, scale)
            return _attend(q, cache, visible, seen, scale)

        tokens = mx.array(np.take_along_axis(rows.tokens, columns, axis=1))
        x = decoder.embed(tokens, positions, self._weights)
        state["offset"] = _integers(start if level else starts)
        x = self._run_layers(self._weights, x, state, attend)
        last = x[:, -1]
        if not feed.together:
            last = x[mx.arange(batch), _integers(np.clip(rows.lengths - 1 - starts, 0, width - 1))]
        state["offset"] = next_offset(rows)
        return self._draw_tokens(self._weights, last, state, u, span)

    def step(self, state: State, u: mx.array, length: int, span: Span) -> State:
        """Feed the newest token of each row, which brings the longest row to length, and draw the next one.

        Args:
            state: of the last block or step.
            u: float32 [B], the draw of each row.
            length: tokens of the longest row.
            span: first id and end of what the grammar allows here; the logits of others are not computed.
        """
        key = self._mode.round_up(length), state["offset"].ndim > 0, span
        if not self._mode.compiled:
            return self._build_step(*key)(self._weights, state, u)
        if key not in self._steps:
            self._steps[key] = mx.compile(self._build_step(*key))
        return self._steps[key](self._weights, state, u)

    def _build_step(self, visible: int, ragged: bool, span: Span) -> _Step:
        masked = ragged or self._mode.bucket > 1

        def run(weights: Weights, state: State, u: mx.array) -> State:
            state = dict(state)
            offset = state["offset"]
            if ragged:  # a row that has ended may stand at the end, whose last position is not relied upon
                last = min(state[f"{CACHE}0"].shape[3], self._config.n_positions) - 1
                state["offset"] = offset = mx.minimum(offset, last)
            seen = mx.arange(visible) <= offset.reshape(-1, 1, 1, 1) if masked else None

            def attend(q: mx.array, k: mx.array, v: mx.array, cache: mx.array, scale: float) -> mx.array:
                return _attend(q, cache, visible, seen, scale)

            x = decoder.lookup(state["token"], decoder.EMBEDDING, weights)
            x = x + decoder.lookup(offset, decoder.POSITIONS, weights)
            x = self._run_layers(weights, x[:, None], state, attend)
            state["offset"] = offset + 1
            return self._draw_tokens(weights, x[:, 0], state, u, span)

        return run

    def _run_layers(self, weights: Weights, x: mx.array, state: State, attend: _Attend) -> mx.array:
        """Apply all blocks to x [B, L, d] and write keys and values at the offset; returns normalised states."""
        config, eps = self._config, self._config.layer_norm_epsilon
        batch, length, width = x.shape
        x = x.reshape(batch * length, width)
        write = _cache_writer(state["offset"])
        for i, scale in enumerate(self._scales):
            at = decoder.block_path(i)
            qkv = _merged_linear(decoder.layer_norm(x, f"{at}.ln_1", weights, eps), f"{at}.attn.c_attn", weights)
            qkv = qkv.reshape(batch, length, 3, config.n_head, -1).transpose(2, 0, 3, 1, 4)
            state[f"{CACHE}{i}"] = write(state[f"{CACHE}{i}"], qkv[1:])
            seen = attend(qkv[0], qkv[1], qkv[2], state[f"{CACHE}{i}"], scale).transpose(0, 2, 1, 3).reshape(x.shape)
            x = x + _merged_linear(seen, f"{at}.attn.c_proj", weights)
            inner = _merged_linear(decoder.layer_norm(x, f"{at}.ln_2", weights, eps), f"{at}.mlp.c_fc", weights)
            inner = ops.ACTIVATION_FUNCTIONS[config.activation_function](inner)
            x = x + _merged_linear(inner, f"{at}.mlp.c_proj", weights)
        return decoder.layer_norm(x, "transformer.ln_f", weights, eps).reshape(batch, length, width)

    def _draw_tokens(self, weights: Weights, hidden: mx.array, state: State, u: mx.array, span: Span) -> State:
        """Draw a token a row from the states [B, d]; rows that have ended yield pad_id."""
        scores, done = _span_logits(weights, hidden, span), state["done"]
        if self._automaton:
            scores = self._automaton.restrict(scores, state, span[0])
        token = sample(scores, u, self._spec) + span[0]
        top = scores.max(axis=-1)
        damaged = mx.logical_or(mx.isnan(top), mx.isinf(top))
        state["bad"] = state["bad"] | mx.any(damaged & ~done)  # the span need not hold what a row that ended may draw
        if self._automaton:
            moved = self._automaton.follow(state, token)
            state |= moved | {"automaton": mx.where(done, state["automaton"], moved["automaton"])}
        if self._spec.eos_id is not None:
            state["done"] = done | (token == self._spec.eos_id)
        state["token"] = mx.where(done, self._spec.pad_id, token)
        return state


def next_offset(rows: GenerationRows) -> mx.array:
    """Return the position of the next token, int32: one for all rows where these are in step, else [B]."""
    return _integers(rows.lengths[~rows.ended][0] if rows.in_step() else rows.lengths)


def _span_logits(weights: Weights, hidden: mx.array, span: Span) -> mx.array:
    """Compute the logits [B, n] of the ids of a span from the states [B, d]."""
    parts, ids = quantised.find(weights, decoder.EMBEDDING.removesuffix(".weight")), slice(*span)
    if parts is not None:
        return quantised.packed_product(hidden, quantised.Parts(*(part[ids] for part in parts))).astype(mx.float32)
    return products.split_head(hidden, weights[decoder.EMBEDDING][ids]).astype(mx.float32)


def _attend(q: mx.array, cache: mx.array, visible: int, seen: mx.array | None, scale: float) -> mx.array:
    """Attend over the first positions of the cache [2, B, H, n, D]; seen is bool [B or 1, 1, L, visible], None: all."""
    keys, values = cache[0, :, :, :visible], cache[1, :, :, :visible]
    found = []
    for start in range(0, q.shape[2], attention.BLOCK_QUERIES):  # so that few scores exist at a time
        rows = slice(start, start + attention.BLOCK_QUERIES)
        mask = None if seen is None else seen[:, :, rows]
        found.append(mx.fast.scaled_dot_product_attention(q[:, :, rows], keys, values, scale=scale, mask=mask))
    return found[0] if len(found) == 1 else mx.concatenate(found, axis=2)


def _cache_writer(offset: mx.array) -> Callable[[mx.array, mx.array], mx.array]:
    """Build the function that writes keys and values [2, B, H, L, D] into a cache from offset, a scalar or [B], on."""
    if offset.ndim == 0:
        return lambda cache, new: mx.slice_update(cache, new, offset.reshape(1), (3,))
    corners = [mx.stack([mx.array(row, mx.int32), offset[row]]) for row in range(offset.shape[0])]

    def write(cache: mx.array, new: mx.array) -> mx.array:
        for row, corner in enumerate(corners):
            cache = mx.slice_update(cache, new[:, row : row + 1], corner, (1, 3))
        return cache

    return write


def _merged_linear(x: mx.array, name: str, weights: Weights) -> mx.array:
    parts, bias = quantised.find(weights, name), weights[f"{name}.bias"]
    if parts is None:
        return products.split_linear(x, weights[f"{name}.weight"], bias)
    y, (key_a, key_b) = quantised.packed_product(x, parts) + bias, state_keys(name)
    # Nothing is fused into a quantised weight: the adapter computes beside it, its scale already in B.
    return lora.adapted(x, y, weights[key_a], weights[key_b], 1.0, None) if key_a in weights else y


def _integers(values: np.ndarray | int) -> mx.array:
    return mx.array(np.asarray(values, np.int32))
