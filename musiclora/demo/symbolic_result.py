"""Options and result of the symbolic demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musiclora.demo.demo_run import DemoOptions, DemoResult
from musiclora.demo.symbolic_samples import Sample
from musiclora.evaluation.scores import Gain, Score, count_pieces
from musiclora.evaluation.verdict import judge_adapter


@dataclass(frozen=True)
class SymbolicDemoOptions(DemoOptions):
    """Settings of the symbolic demo.

    Attributes:
        transpose: largest distance in semitones of the keys in which songs are learnt.
        tokens: most tokens drawn for a piece.
        prompt_bars: bars of a test song that each piece continues.
    """

    steps: int = 60
    rows: int = 1
    lr: float = 3e-3
    pieces: int = 2
    seconds: float = 60.0
    evaluations: int = 3
    transpose: int = 5
    tokens: int = 700
    prompt_bars: int = 2


@dataclass(frozen=True)
class SymbolicDemoResult(DemoResult):
    """Result of the symbolic demo.

    Attributes:
        before, after: scores of base and adapter on test songs that the run neither learnt nor chose by.
        gain: their difference.
        crossed: loss of the adapter on the first test songs by backend, for every backend that runs here.
        samples: the music.
        base: name of the base.
        data_dir: the user's songs; None for the bundled ones.
        test_words: description of the songs that are scored.
    """

    before: Score
    after: Score
    gain: Gain
    crossed: dict[str, float]
    samples: list[Sample]
    base: str
    data_dir: Path | None
    test_words: str

    def crossed_losses(self) -> str:
        """Format the loss by backend."""
        return ", ".join(f"{name} {loss:.6f}" for name, loss in self.crossed.items())

    def lines(self) -> list[str]:
        """Describe the result in lines."""
        b, a, g = self.before, self.after, self.gain
        return [
            *self.training.lines(),
            f"on {count_pieces(g.songs)} {self.test_words}: {b.bits_per_note:.2f} bits a note by the base, "
            f"{a.bits_per_note:.2f} adapted; {g.describe(2)}: {judge_adapter(g, self.training.check).headline}",
            f"the same adapter's loss by backend, on the first of them: {self.crossed_losses()}",
            self.last_line(),
        ]

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        scores = {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "gain": asdict(self.gain),
            "base": self.base,
        }
        return self.record_with({**scores, "loss_by_backend": self.crossed})
