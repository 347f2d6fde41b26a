"""How the next token is drawn: the numpy reference that the samplers of both backends equal, and its uniform draws."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import SamplingSpec


def uniforms(seed: int, steps: int, batch: int, first: int = 0) -> np.ndarray:
    """Uniform draws, one a token; row i belongs to piece first + i whatever the batch is.

    Args:
        seed: 0 or more.
        steps: tokens per piece; a longer request begins with the draws of a shorter one.
        batch: pieces.
        first: number of the first piece.

    Returns:
        float32 [steps, batch] in [0, 1), multiples of 2^-24.
    """
    rows = [np.random.default_rng([seed, first + row]).random(steps, dtype=np.float32) for row in range(batch)]
    return np.stack(rows, axis=1) if rows else np.zeros((steps, 0), np.float32)


def sample_token(logits: np.ndarray, u: float, spec: SamplingSpec, allowed: np.ndarray | None = None) -> int:
    """Draw one token as `SamplingSpec` says, in float32.

    Args:
        logits: float32 [V].
        u: uniform draw in [0, 1).
        spec: temperature, top-k and top-p; its eos_id and pad_id are not looked at here.
        allowed: bool [V]; tokens that are not allowed lose all probability before anything else.

    Raises:
        ValueError: nothing is allowed, or a logit that counts is not a number.
    """
    order, mass = _ranked(logits, spec, allowed)
    if spec.temperature == 0:
        return int(order[0])
    return int(order[_pick(mass, _kept(mass, spec), u)])


def decision_margin(logits: np.ndarray, u: float, spec: SamplingSpec, allowed: np.ndarray | None = None) -> float:
    """How far a draw is from going another way, in probability.

    Two computations whose probabilities differ by less than this agree on the token. It is the smallest of: the
    distance of u from the ends of the drawn token's share, the distance of the drawn token's probability from its
    neighbours in the order, and the distances that decide what top-k and top-p keep.
    """
    _, mass = _ranked(logits, spec, allowed)
    if spec.temperature == 0:
        return float(mass[0] - mass[1]) if len(mass) > 1 else 1.0
    kept = _kept(mass, spec)
    sums = np.cumsum(mass[:kept], dtype=np.float32)
    index = _pick(mass, kept, u)
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


def _ranked(logits: np.ndarray, spec: SamplingSpec, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Token ids by falling scaled logit, ties to the lower id, and their probabilities in that order."""
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


def _kept(mass: np.ndarray, spec: SamplingSpec) -> int:
    """How many tokens of the order top-k and top-p leave, at least one."""
    limit = min(spec.top_k or len(mass), len(mass))
    before = np.cumsum(mass[:limit], dtype=np.float32) - mass[:limit]
    return max(1, int(np.count_nonzero(before < np.float32(spec.top_p)))) if spec.top_p < 1 else limit


def _pick(mass: np.ndarray, kept: int, u: float) -> int:
    """First index whose cumulative share exceeds u; a token of no probability is never taken."""
    sums = np.cumsum(mass[:kept], dtype=np.float32)
    return min(int(np.searchsorted(sums, np.float32(u) * sums[-1], side="right")), kept - 1)
