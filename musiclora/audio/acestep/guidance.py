"""Adaptive projected guidance (APG), the classifier-free guidance of ACE-Step's base and sft models."""

from __future__ import annotations

import numpy as np

_MOMENTUM = -0.75  # negative: what earlier steps already pushed is taken back
_LARGEST_NORM = 2.5  # of a channel's difference over time
_LEAST_NORM = 1e-12  # below it a channel has no direction


class AdaptiveGuidance:
    """Guidance of one batch along its steps; it remembers the differences of earlier steps.

    Source: Sadat et al. 2024 (arXiv 2410.02416), algorithm 1, with eta 0; norms over time alone as in ACE-Step.
    """

    def __init__(self, scale: float) -> None:
        """Begin a batch.

        Args:
            scale: the usual guidance scale; 1 is none.
        """
        self._weight, self._average = np.float32(scale - 1), np.float32(0)

    def combine(self, conditional: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
        """Guide one step: add the part of the difference that is orthogonal to the conditional velocity.

        Args:
            conditional, unconditional: velocities float32 [B, T, C].

        Returns:
            float32 [B, T, C].
        """
        self._average = conditional - unconditional + np.float32(_MOMENTUM) * self._average
        norm = np.linalg.norm(self._average, axis=1, keepdims=True)
        difference = self._average * np.minimum(1, _LARGEST_NORM / np.maximum(norm, _LEAST_NORM))
        # Projection cancels most digits of nearly parallel vectors, so it is computed in float64.
        wide, direction = difference.astype(np.float64), conditional.astype(np.float64)
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), _LEAST_NORM)
        orthogonal = wide - (wide * direction).sum(axis=1, keepdims=True) * direction
        guided: np.ndarray = conditional + self._weight * orthogonal.astype(np.float32)
        return guided
