"""Result of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.json_file import read_json
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.scores import Gain, HeldOutScore
from musiclora.evaluation.style.card import StyleCard
from musiclora.evaluation.verdict import BaseCheck, Verdict, judge_adapter, judge_base
from musiclora.training.fold_summary import FoldSummary
from musiclora.training.further_losses import FurtherLoss, further_entries
from musiclora.training.run_folder import META, RunProgress

# Option that makes a run longer, by the reason why it ended.
_MORE = {
    "steps": "more --max-steps continue it",
    "folds": "it has the steps that its folds chose; --restart begins again",
    "time": "more --minutes continue it",
    "copying": "its samples copied training songs; the same command without --stop-when-copying continues it",
    "patience": "its held-out loss fell no further; more --epochs or more --patience continue it",
}


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
        check: loss of the base before training next to a guess's, None where it was not scored.
        parameters: numbers of trained and of all parameters; zeros for full fine-tuning.
        new_base: all weights were trained, there is no adapter.
        further: held-out losses under other conditions, by key of metrics.jsonl.
        copies: copy figures of samples of the adapter that is kept; None where they cannot be measured.
        folds: the cross-validation before this run on all songs, None without one.
        style: how near samples of adapter and base are to the songs; None where that cannot be measured.
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
    check: BaseCheck | None = None
    parameters: tuple[int, int] = (0, 0)
    new_base: bool = False
    further: Mapping[str, FurtherLoss] = field(default_factory=dict)
    copies: CopyFigures | None = None
    folds: FoldSummary | None = None
    style: StyleCard | None = None

    @property
    def report(self) -> Path:
        """The report's HTML file."""
        return self.run_dir / "report.html"

    @property
    def pieces(self) -> str:
        """`songs` or `recordings`."""
        return "recordings" if self.unit == "frames" else "songs"

    @property
    def verdict(self) -> Verdict | None:
        """Verdict on the held-out scores; None for a new base that is better than a guess."""
        if self.new_base:
            return judge_base(self.check, self.progress.best)
        return judge_adapter(self.folds.gain if self.folds else self.gain, self.check, pieces=self.pieces)

    def as_json(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        content = asdict(replace(self, further={}, copies=None, folds=None, style=None))
        del content["further"]
        content["folds"] = self.folds.as_json() if self.folds else None
        verdict = asdict(self.verdict) if self.verdict else None
        copies = self.copies.as_json() if self.copies else None
        style = self.style.as_json() if self.style else {"style": None}
        content |= {**further_entries(self.further), "copies": copies, **style, "verdict": verdict}
        return {**content, "report": self.report}

    def lines(self) -> list[str]:
        """Describe the result in lines."""
        p = self.progress
        speed = p.tokens / max(p.seconds, 1e-9)
        steps = f"{p.step} {'step' if p.step == 1 else 'steps'}"
        lines = [f"{steps} in {p.seconds:.0f} s on {self.backend}, {speed:,.0f} {self.unit}/s overall"]
        if self.before and self.after and self.gain:
            lines.append(f"{self.before.describe_change(self.after)}; {self.gain.describe()}")
        if self.folds:
            lines += [self.folds.describe(), f"over all {self.pieces}, each in its fold: {self.folds.gain.describe()}"]
        lines += [loss.describe(name) for name, loss in self.further.items()]
        if self.verdict:
            lines.append(self.verdict.line())
        if self.copies:
            lines.append(self.copies.line())
        if self.style:
            lines.append(self.style.line())
        return [*lines, *self._update_lines()]

    def _update_lines(self) -> list[str]:
        if not self.update:
            return []
        if self.gain and self.gain.by_song and not any(total for total, _ in self.gain.by_song):
            return [f"the adapter changes the loss of no held-out one of the {self.pieces}: nothing was learnt"]
        mean, largest = sum(self.update.values()) / len(self.update), max(self.update.values())
        lines = [f"the update is {mean:.2%} of the weights' size on average (largest {largest:.2%})"]
        return [*lines, "the adapter did not move: nothing was learnt"] if mean == 0 else lines


def finished_line(folder: Path, ended: str) -> str:
    """Say that a run is finished, and which option makes it longer.

    Args:
        folder: the run folder.
        ended: reason why it ended; empty counts as epochs.
    """
    return f"{folder}: this run is finished ({ended or 'epochs'}); {_MORE.get(ended, 'more --epochs continue it')}"


def record_result(result: TrainResult) -> None:
    """Add the lines of a result, without that of the speed, to the run's training_meta.json as `result`."""
    path = result.run_dir / META
    write_json(path, {**read_json(path), "result": result.lines()[1:]})
