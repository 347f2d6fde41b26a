"""Result of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from musiclora.evaluation.scores import Gain, HeldOutScore
from musiclora.training.run_folder import RunProgress


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        run_dir: the run folder.
        backend: the backend that trained it.
        before, after: held-out scores of the base and of the best adapter; None without held-out songs.
        gain: their difference with its spread over songs.
        update: ||dW|| / ||W|| by module, empty for full fine-tuning.
        progress: steps, epochs, seconds, why it ended.
        already_finished: nothing was left to do.
        unit: counts the data: `tokens` or `frames`.
        example: name of a file that `generate` may write.
    """

    run_dir: Path
    backend: str
    before: HeldOutScore | None
    after: HeldOutScore | None
    gain: Gain | None
    update: Mapping[str, float]
    progress: RunProgress
    already_finished: bool = False
    unit: str = "tokens"
    example: str = "new.mid"

    def lines(self) -> list[str]:
        """Describe the result in lines."""
        p = self.progress
        speed = p.tokens / max(p.seconds, 1e-9)
        lines = [f"{p.step} steps in {p.seconds:.0f} s on {self.backend}, {speed:,.0f} {self.unit}/s overall"]
        return [*lines, *self._gain_lines(), *self._update_lines()]

    def _gain_lines(self) -> list[str]:
        b, a, g = self.before, self.after, self.gain
        if not (b and a and g):
            return []
        lines = [f"{b.describe_change(a)} (gain {g.mean:.3f}, 95 % over {g.songs} songs {g.low:.3f} to {g.high:.3f})"]
        if g.verdict == "nothing gained":
            lines.append(
                "nothing gained: on held-out songs the adapter is no better than the base, which knows this style"
            )
        elif g.verdict == "lost":
            lines.append("worse than the base on held-out songs: train for fewer steps, or lower --lr")
        return lines

    def _update_lines(self) -> list[str]:
        if not self.update:
            return []
        mean, largest = sum(self.update.values()) / len(self.update), max(self.update.values())
        lines = [f"the update is {mean:.2%} of the weights' size on average (largest {largest:.2%})"]
        return [*lines, "the adapter did not move: nothing was learnt"] if mean == 0 else lines
