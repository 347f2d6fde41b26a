"""Token sampling in numpy: the reference for the samplers and grammars of both backends, and their uniform draws."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import ClosedKeys, SamplingSpec


def uniforms(seed: int, steps: int, batch: int, first: int = 0) -> np.ndarray:
    """Draw uniform numbers, one for each token; column i belongs to piece first + i in every batch.

    Args:
        seed: 0 or more.
        steps: tokens of each piece; a longer request begins with the draws of a shorter one.
        batch: number of pieces.
        first: number of the first piece.

    Returns:
        float32 [steps, batch] in [0, 1), multiples of 2^-24.
    """
    rows = [np.random.default_rng([seed, first + row]).random(steps, dtype=np.float32) for row in range(batch)]
    return np.stack(rows, axis=1) if rows else np.zeros((steps, 0), np.float32)


def sample_token(logits: np.ndarray, u: float, spec: SamplingSpec, allowed: np.ndarray | None = None) -> int:
    """Draw one token by temperature, top-k and nucleus sampling, in float32.

    Args:
        logits: float32 [V].
        u: uniform draw in [0, 1).
        spec: temperature, top-k and top-p; eos_id and pad_id are not used.
        allowed: bool [V]; other tokens get probability 0 before top-k and top-p.

    Raises:
        ValueError: no token is allowed, or an allowed logit is not finite.
    """
    order, mass = _rank_tokens(logits, spec, allowed)
    if spec.temperature == 0:
        return int(order[0])
    return int(order[_pick_index(mass, _count_kept(mass, spec), u)])


def decision_margin(logits: np.ndarray, u: float, spec: SamplingSpec, allowed: np.ndarray | None = None) -> float:
    """Compute the smallest change of a probability that changes the drawn token.

    Two computations whose probabilities differ by less agree on the token. The margin is the least of three distances:

    * from u to the ends of the drawn token's interval;
    * from the token's probability to those of its neighbours in the order;
    * from the probabilities at the limits of top-k and top-p to the other side.
    """
    _, mass = _rank_tokens(logits, spec, allowed)
    if spec.temperature == 0:
        return float(mass[0] - mass[1]) if len(mass) > 1 else 1.0
    kept = _count_kept(mass, spec)
    sums = np.cumsum(mass[:kept], dtype=np.float32)
    index = _pick_index(mass, kept, u)
    edges = np.concatenate([np.zeros(1, np.float32), sums / sums[-1]])
    distances = []
    if index > 0:
        distances += [u - edges[index], mass[index - 1] - mass[index]]
    if index + 1 < kept:
        distances += [edges[index + 1] - u, mass[index] - mass[index + 1]]
    if spec.top_k and spec.top_k < len(mass):
        distances.append(mass[spec.top_k - 1] - mass[spec.top_k])
    if spec.top_p < 1:
        distances += [abs(spec.top_p - total) for total in sums[-2:]]
    return float(min(distances, default=1.0))


def _rank_tokens(logits: np.ndarray, spec: SamplingSpec, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sort token ids by descending scaled logit, ties to the lower id; return them with their probabilities."""
    scaled = np.asarray(logits, np.float32)
    if spec.temperature > 0:
        scaled = scaled / np.float32(spec.temperature)
    if allowed is not None:
        scaled = np.where(allowed, scaled, np.float32(-np.inf))
    top = scaled.max()
    if not np.isfinite(top):
        raise ValueError(f"the largest allowed logit is {top}: nothing can be drawn")
    order = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[order] - top, dtype=np.float32)
    return order, weights / weights.sum(dtype=np.float32)


def _count_kept(mass: np.ndarray, spec: SamplingSpec) -> int:
    """Count the sorted tokens that top-k and top-p keep, at least one."""
    limit = min(spec.top_k or len(mass), len(mass))
    before = np.cumsum(mass[:limit], dtype=np.float32) - mass[:limit]
    return max(1, int(np.count_nonzero(before < np.float32(spec.top_p)))) if spec.top_p < 1 else limit


def _pick_index(mass: np.ndarray, kept: int, u: float) -> int:
    """Return the first index whose cumulative probability exceeds u; tokens of probability 0 are never drawn."""
    sums = np.cumsum(mass[:kept], dtype=np.float32)
    return min(int(np.searchsorted(sums, np.float32(u) * sums[-1], side="right")), kept - 1)


class OpenKeys:
    """Open keys of one row: the reference for `ClosedKeys`.

    Attributes:
        open: bool [K].
        offset: the row's offset.
    """

    def __init__(self, rule: ClosedKeys) -> None:
        """Begin with the keys and the offset of a rule for one row."""
        self._rule = rule
        self.open = np.array(rule.open, bool)
        self.offset = int(rule.offset)

    def allowed(self) -> np.ndarray:
        """Return the tokens whose key is open, bool [V]."""
        rule = self._rule
        keys = np.where(rule.shifted, rule.keys + self.offset, rule.keys)
        return np.asarray((rule.keys < 0) | self.open[keys])

    def follow(self, token: int) -> None:
        """Change the keys as a drawn token does."""
        rule = self._rule
        if rule.opens[token]:
            self.open[:] = True
        if rule.offsets[token] >= 0:
            self.offset = int(rule.offsets[token])
        self.open[self.offset + rule.first[token] : self.offset + rule.last[token]] = False
        if np.count_nonzero(~self.open) >= rule.limit:
            self.open[:] = False
