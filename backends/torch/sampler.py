"""Token sampler on torch: nucleus and top-k sampling, and grammar masks, without the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec


def _rank_tokens(scaled: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rank the count largest of [B, V] in falling order, ties by rising id; returns values and ids."""
    size = scaled.shape[1]
    if count == size or scaled.device.type == "mps":
        values, ids = torch.sort(scaled, dim=1, descending=True, stable=True)
        return values[:, :count], ids[:, :count]
    # topk leaves the order of ties open, so it gets keys without ties: float bits made monotone, then the id reversed.
    bits = (scaled + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    keys += torch.arange(size - 1, -1, -1, device=scaled.device)
    ids = size - 1 - (torch.topk(keys, count, dim=1).values & 0xFFFFFFFF)
    return scaled.gather(1, ids), ids


def sample(logits: Tensor, uniform: Tensor, spec: SamplingSpec) -> Tensor:
    """Draw one token a row as `SamplingSpec` says.

    Args:
        logits: float32 [B, V]; -inf where a token is forbidden. Rows with NaN yield some token.
        uniform: float32 [B].
        spec: temperature, top_k, top_p.

    Returns:
        int64 [B].
    """
    size = logits.shape[1]
    if spec.temperature == 0:
        best = logits == logits.amax(1, keepdim=True)
        return torch.where(best, torch.arange(size, device=logits.device), size).amin(1).clamp_(max=size - 1)
    scaled = logits / spec.temperature
    _, ids = _rank_tokens(scaled, min(spec.top_k or size, size))
    mass = torch.softmax(scaled, 1).gather(1, ids)
    if spec.top_p < 1:
        before = mass.cumsum(1) - mass
        mass = mass * (before < spec.top_p)
    sums = mass.cumsum(1)
    drawn = (sums <= uniform[:, None] * sums[:, -1:]).sum(1)
    # Rounding may leave no sum above the draw; a token of no probability is never taken.
    last = ((mass > 0).sum(1) - 1).clamp_(min=0)  # NaN has no mass at all; generate reports it
    return ids.gather(1, torch.minimum(drawn, last)[:, None])[:, 0]


class Automaton:
    """A grammar's tables and the state of each row, on the device."""

    def __init__(self, grammar: Grammar, batch: int, device: torch.device) -> None:
        self._classes = torch.from_numpy(np.array(grammar.classes, np.int64)).to(device)
        self._transitions = torch.from_numpy(np.array(grammar.transitions, np.int64)).to(device)
        start = np.broadcast_to(np.asarray(grammar.start, np.int64), (batch,))
        self._states = torch.from_numpy(start.copy()).to(device)
        self._keys = _OpenKeys(grammar.closed_keys, batch, device) if grammar.closed_keys else None

    def forbid(self, logits: Tensor) -> Tensor:
        """Set the logits of tokens without a transition, or with a closed key, to -inf."""
        row = self._transitions.index_select(0, self._states)
        allowed = row.index_select(1, self._classes) >= 0
        if self._keys is not None:
            allowed &= self._keys.allowed()
        return logits.masked_fill(~allowed, float("-inf"))

    def follow(self, tokens: Tensor) -> None:
        """Advance the states by the drawn tokens; padding after the end may lack a transition, which does no harm."""
        self._states = self._transitions[self._states, self._classes[tokens]].clamp_(min=0)
        if self._keys is not None:
            self._keys.follow(tokens)


class _OpenKeys:
    """Tables of `ClosedKeys` and the open keys of each row; one more column, always open, is the key of the rest."""

    def __init__(self, rule: ClosedKeys, batch: int, device: torch.device) -> None:
        count = np.shape(rule.open)[-1]
        keys = np.where(rule.keys < 0, count, rule.keys)
        moves = [rule.opens, rule.first, rule.last, rule.offsets]
        start = np.ones((batch, count + 1), bool)
        start[:, :count] = rule.open
        offset = np.broadcast_to(np.asarray(rule.offset, np.int64), (batch,))
        self._tokens, self._moves, self._open, self._offset = (
            torch.from_numpy(np.array(table)).to(device)
            for table in (keys.astype(np.int64), np.stack(moves, 1).astype(np.int64), start, offset)
        )
        self._ids = torch.arange(count, device=device)
        self._limit = rule.limit
        # Without instruments all offsets are 0, and a draw needs half of the operations.
        self._shifted = torch.from_numpy(np.array(rule.shifted, np.int64)).to(device) if rule.shifted.any() else None

    def allowed(self) -> Tensor:
        """Return the tokens whose key is open, bool [B, V]."""
        if self._shifted is None:
            return self._open.index_select(1, self._tokens)
        return self._open.gather(1, self._offset[:, None] * self._shifted + self._tokens)

    def follow(self, tokens: Tensor) -> None:
        """Change the keys as the drawn tokens [B] do."""
        opens, first, last, offsets = self._moves.index_select(0, tokens).t().unsqueeze(2).unbind(0)
        if self._shifted is not None:
            self._offset = torch.where(offsets[:, 0] >= 0, offsets[:, 0], self._offset)
            first, last = first + self._offset[:, None], last + self._offset[:, None]
        held = self._open[:, :-1]
        held |= opens > 0
        held &= (self._ids < first) | (self._ids >= last)
        held &= held.sum(1, keepdim=True) > len(self._ids) - self._limit
