"""Token sampler on torch: nucleus and top-k sampling, and grammar masks, without the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.backends.grammar_spans import ClassExtents, GrammarSpans
from musiclora.backends.token_requests import have_same_keys

# A nucleus rarely has more tokens; on the CPU ranking as many of 55,000 takes a tenth of the time of sorting all.
_NUCLEUS_TOKENS = 512


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


def _rank_candidates(scaled: Tensor, mass: Tensor, spec: SamplingSpec) -> tuple[Tensor, Tensor]:
    """Rank the tokens that top-k keeps, or as many as hold the nucleus; returns ids and probabilities [B, n]."""
    count = min(spec.top_k or scaled.shape[1], scaled.shape[1])
    if scaled.device.type == "cpu" and spec.top_p < 1 and count > 4 * _NUCLEUS_TOKENS:
        ids = _rank_tokens(scaled, _NUCLEUS_TOKENS)[1]
        ranked = mass.gather(1, ids)
        # The last of them is outside the nucleus, so all later ones are. Looking costs nothing where host is device.
        if bool((ranked.cumsum(1)[:, -1] - ranked[:, -1] >= spec.top_p).all()):
            return ids, ranked
    ids = _rank_tokens(scaled, count)[1]
    return ids, mass.gather(1, ids)


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
    ids, mass = _rank_candidates(scaled, torch.softmax(scaled, 1), spec)
    if spec.top_p < 1:
        before = mass.cumsum(1) - mass
        mass = mass * (before < spec.top_p)
    sums = mass.cumsum(1)
    drawn = (sums <= uniform[:, None] * sums[:, -1:]).sum(1)
    # Rounding may leave no sum above the draw; a token of no probability is never taken.
    last = ((mass > 0).sum(1) - 1).clamp_(min=0)  # NaN has no mass at all; generate reports it
    return ids.gather(1, torch.minimum(drawn, last)[:, None])[:, 0]


class GrammarTables:
    """Tables of a grammar on the device, without the state of the rows."""

    def __init__(self, grammar: Grammar, device: torch.device, last: GrammarTables | None = None) -> None:
        """Copy the tables; those that are the same objects as in `last` are taken from there."""
        self.grammar, self.device = grammar, device
        self.classes: Tensor
        self.extents: ClassExtents
        self.keys: _KeyTables | None
        if last is not None and grammar.classes is last.grammar.classes:
            self.classes, self.extents = last.classes, last.extents
        else:
            self.classes = torch.from_numpy(np.array(grammar.classes, np.int64)).to(device)
            self.extents = ClassExtents(grammar.classes)
        self.transitions = torch.from_numpy(np.array(grammar.transitions, np.int64)).to(device)
        self.spans = GrammarSpans(grammar, self.extents)
        if last is not None and have_same_keys(grammar.closed_keys, last.grammar.closed_keys):
            self.keys = last.keys
        else:
            self.keys = _KeyTables(grammar.closed_keys, device) if grammar.closed_keys else None


class Automaton:
    """State of each row in a grammar, on the device, and the ids that the next draw may take."""

    def __init__(self, tables: GrammarTables, grammar: Grammar, going: np.ndarray) -> None:
        """Begin where the grammar says.

        Args:
            tables: those of this grammar.
            grammar: gives start, open keys and offsets.
            going: bool [B], False for rows that have ended, whose states say nothing.
        """
        self._tables = tables
        start = np.broadcast_to(np.asarray(grammar.start, np.int64), going.shape)
        self._states = torch.from_numpy(start.copy()).to(tables.device)
        self._keys = None
        if tables.keys and grammar.closed_keys:
            self._keys = _OpenKeys(tables.keys, grammar.closed_keys, len(going), tables.device)
        self._first, self._end, self._later = tables.spans.follow(frozenset(start[going].tolist()))

    @property
    def span(self) -> tuple[int, int]:
        """First id and end of the interval that holds all tokens which the next draw may take."""
        return self._first, self._end

    def forbid(self, logits: Tensor) -> Tensor:
        """Set logits [B, n] of the span to -inf where the token has no transition, or its key is closed."""
        row = self._tables.transitions.index_select(0, self._states)
        allowed = row.index_select(1, self._tables.classes[self._first : self._end]) >= 0
        if self._keys is not None:
            allowed &= self._keys.allowed(self._first, self._end)
        return logits.masked_fill(~allowed, float("-inf"))

    def follow(self, tokens: Tensor) -> None:
        """Advance the states by the drawn tokens; padding after the end may lack a transition, which does no harm."""
        self._states = self._tables.transitions[self._states, self._tables.classes[tokens]].clamp_(min=0)
        if self._keys is not None:
            self._keys.follow(tokens)
        self._first, self._end, self._later = self._tables.spans.follow(self._later)


class _KeyTables:
    """Tables of `ClosedKeys`; a key more than there are, always open, is that of tokens without one."""

    def __init__(self, rule: ClosedKeys, device: torch.device) -> None:
        count = np.shape(rule.open)[-1]
        keys = np.where(rule.keys < 0, count, rule.keys).astype(np.int64)
        moves = np.stack([rule.opens, rule.first, rule.last, rule.offsets], 1).astype(np.int64)
        self.tokens, self.moves = torch.from_numpy(keys).to(device), torch.from_numpy(moves).to(device)
        self.ids = torch.arange(count, device=device)
        self.limit = rule.limit
        # Without instruments all offsets are 0, and a draw needs half of the operations.
        self.shifted = torch.from_numpy(np.array(rule.shifted, np.int64)).to(device) if rule.shifted.any() else None


class _OpenKeys:
    """Open keys and offset of each row; the last column is always open."""

    def __init__(self, tables: _KeyTables, rule: ClosedKeys, batch: int, device: torch.device) -> None:
        self._tables = tables
        start = np.ones((batch, len(tables.ids) + 1), bool)
        start[:, :-1] = rule.open
        offset = np.broadcast_to(np.asarray(rule.offset, np.int64), (batch,))
        self._open, self._offset = (torch.from_numpy(np.array(table)).to(device) for table in (start, offset))

    def allowed(self, first: int, end: int) -> Tensor:
        """Return the tokens first <= id < end whose key is open, bool [B, end - first]."""
        tokens, shifted = self._tables.tokens[first:end], self._tables.shifted
        if shifted is None:
            return self._open.index_select(1, tokens)
        return self._open.gather(1, self._offset[:, None] * shifted[first:end] + tokens)

    def follow(self, tokens: Tensor) -> None:
        """Change the keys as the drawn tokens [B] do."""
        ids = self._tables.ids
        opens, first, last, offsets = self._tables.moves.index_select(0, tokens).t().unsqueeze(2).unbind(0)
        if self._tables.shifted is not None:
            self._offset = torch.where(offsets[:, 0] >= 0, offsets[:, 0], self._offset)
            first, last = first + self._offset[:, None], last + self._offset[:, None]
        held = self._open[:, :-1]
        held |= opens > 0
        held &= (ids < first) | (ids >= last)
        held &= held.sum(1, keepdim=True) > len(ids) - self._tables.limit
