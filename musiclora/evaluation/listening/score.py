"""Scores of a listening test: mean opinion scores, changes, tests, agreement; in the practice of ITU-T P.800."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.evaluation.listening.key import CONDITIONS, QUESTIONS, Key
from musiclora.evaluation.listening.ratings import Ratings
from musiclora.evaluation.listening.statistics import (
    CONFIDENCE,
    Estimate,
    estimate_change,
    estimate_mean,
    ordinal_alpha,
    permutation_p,
)

FEW_LISTENERS = 15  # fewer give wide intervals and unsteady agreement; P.800 tests use 24 and more
_SIGNIFICANT_P = 0.05
COMPARISONS = (("adapted", "base"), ("adapted", "real"))


@dataclass(frozen=True)
class Change:
    """Difference of two conditions on one question.

    Attributes:
        after, before: the conditions.
        estimate: of the difference.
        p: two-sided permutation test over listeners; None for one listener.
    """

    after: str
    before: str
    estimate: Estimate
    p: float | None


@dataclass(frozen=True)
class QuestionScore:
    """Results of one question.

    Attributes:
        means: mean opinion score of each condition.
        changes: of the adapted against the base and against the real music.
        agreement: Krippendorff's ordinal alpha over all excerpts, or None.
    """

    means: dict[str, Estimate]
    changes: tuple[Change, ...]
    agreement: float | None


@dataclass(frozen=True)
class ListeningScore:
    """Result of `listen score`.

    Attributes:
        test, title: of the key.
        listeners: number of files that count.
        items: excerpts of each condition.
        questions: results by question.
        left_out: one line for each file that does not count.
    """

    test: str
    title: str
    listeners: int
    items: dict[str, int]
    questions: dict[str, QuestionScore]
    left_out: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        return {**dataclasses.asdict(self), "confidence": CONFIDENCE, "remarks": self.remarks()}

    def remarks(self) -> list[str]:
        """Say what limits the results."""
        found = []
        if self.listeners < FEW_LISTENERS:
            least = f"; no p below {2 / 2**self.listeners:.2g} is possible" if 1 < self.listeners < 6 else ""
            found.append(
                f"{_count(self.listeners, 'listener')}: take intervals and agreement with care, {FEW_LISTENERS} or "
                f"more are advised{least}"
            )
        if min(self.items.values()) < 2:
            found.append("one excerpt of a kind: nothing is known about other excerpts")
        return found

    def lines(self) -> list[str]:
        """Describe the result."""
        total = sum(self.items.values())
        lines = [f"{self.title}: {_count(self.listeners, 'listener')}, {total} excerpts, test {self.test}"]
        for question, score in self.questions.items():
            lines += ["", f"{question.replace('_', ' ')}: mean opinion score, 1 to 5"]
            for condition, estimate in score.means.items():
                lines.append(f"  {condition:<8} {estimate.mean:.2f}{_intervals(estimate)}")
            lines += [f"  {_change_line(change)}" for change in score.changes]
            alpha = "not defined" if score.agreement is None else f"{score.agreement:.2f}"
            lines.append(f"  agreement of listeners (Krippendorff's ordinal alpha): {alpha}")
        return lines


def score_ratings(key: Key, ratings: Ratings) -> ListeningScore:
    """Compute the scores of a test; the same ratings give the same figures."""
    columns = {c: np.array([i for i, item in enumerate(key.items) if item.condition == c]) for c in CONDITIONS}
    columns = {condition: found for condition, found in columns.items() if len(found)}
    questions = {question: _score_question(ratings.values[question], columns) for question in QUESTIONS}
    items = {condition: len(found) for condition, found in columns.items()}
    return ListeningScore(key.test, key.title, len(ratings.files), items, questions, ratings.left_out)


def _score_question(values: np.ndarray, columns: dict[str, np.ndarray]) -> QuestionScore:
    parts = {condition: values[:, found].astype(float) for condition, found in columns.items()}
    changes = tuple(
        _compare(after, before, parts) for after, before in COMPARISONS if after in parts and before in parts
    )
    return QuestionScore({c: estimate_mean(part) for c, part in parts.items()}, changes, ordinal_alpha(values))


def _compare(after: str, before: str, parts: dict[str, np.ndarray]) -> Change:
    differences = parts[after].mean(axis=1) - parts[before].mean(axis=1)
    p = permutation_p(differences) if len(differences) > 1 else None
    return Change(after, before, estimate_change(parts[after], parts[before]), p)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _intervals(estimate: Estimate, form: str = ".2f") -> str:
    named = (("listeners", estimate.over_listeners), ("listeners and excerpts", estimate.over_both))
    texts = [f"{format(span[0], form)} to {format(span[1], form)} over {name}" for name, span in named if span]
    return f" (95 %: {'; '.join(texts)})" if texts else " (no interval)"


def _change_line(change: Change) -> str:
    text = f"{change.after} against {change.before}: {change.estimate.mean:+.2f}{_intervals(change.estimate, '+.2f')}"
    if change.p is None:
        return text
    verdict = "" if change.p < _SIGNIFICANT_P else ": within chance"
    return f"{text}, p {'< 0.001' if change.p < 0.001 else f'= {change.p:.3f}'}{verdict}"
