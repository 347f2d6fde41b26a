"""Verdicts on an adapter or a new base: what its held-out scores can show, and what they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from musiclora.evaluation.instrument_scores import InstrumentScore, instrument_lines
from musiclora.evaluation.scores import LEAST_SONGS, FlowScore, Gain, Score, count_pieces

# Share of a guess's loss from which on a base has learnt nothing about the music.
GUESS_SHARE = 0.95


@dataclass(frozen=True)
class BaseCheck:
    """Loss of a base before it is trained, next to the loss of a guess that knows no music.

    Attributes:
        loss: of the base on all songs that were looked at.
        guess: of an even guess of tokens, or of the best linear guess of latents, on the same songs.
        warning: line for the user where the base does not know the songs, else empty.
    """

    loss: float
    guess: float
    warning: str = ""

    @property
    def is_known(self) -> bool:
        """True where the base predicts the songs better than a guess."""
        return self.loss < GUESS_SHARE * self.guess


@dataclass(frozen=True)
class Verdict:
    """Verdict in words.

    Attributes:
        style: `gained`, `lost`, or `flat` for everything else.
        headline: a few words.
        words: reason, and what to do; may be empty.
    """

    style: str
    headline: str
    words: str = ""

    def line(self) -> str:
        """Format headline and words as one line."""
        return f"{self.headline}: {self.words}" if self.words else self.headline


def judge_adapter(gain: Gain | None, check: BaseCheck | None, trained_on: int = 0, pieces: str = "songs") -> Verdict:
    """Judge an adapter by its scores.

    Args:
        gain: over songs that the adapter was not trained on, None where there are none.
        check: the base's loss and a guess's, None where it is not known.
        trained_on: number of songs that were trained on, where these are all that was scored.
        pieces: `songs` or `recordings`.
    """
    if trained_on:
        words = "this shows how well they are learnt by heart; score other ones"
        return Verdict("flat", f"no verdict, the adapter was trained on these {pieces}", words)
    if check is not None and not check.is_known:
        words = (  # without the adapted loss, which may be that of fewer songs
            f"over all {pieces} scored its loss is {check.loss:.3f}, a guess has {check.guess:.3f}; a lower loss "
            "than such a base's says little about the style"
        )
        return Verdict("flat", f"no verdict, the base does not know these {pieces}", words)
    if gain is None:
        words = f"how the adapter predicts new {pieces} is not known"
        return Verdict("flat", f"no verdict, no {pieces} were held out", words)
    return _judge_gain(gain)


def _judge_gain(gain: Gain) -> Verdict:
    if gain.low is None:
        words = (
            f"{gain.counted} that it was not trained on; at least {LEAST_SONGS} are needed to tell a gain from chance"
        )
        return Verdict("flat", f"no verdict, too few {gain.pieces}", words)
    if gain.verdict == "gained":
        return Verdict("gained", "gained", f"the adapter predicts new {gain.pieces} of this style better than the base")
    if gain.verdict == "lost":
        return Verdict("lost", "worse than the base on held-out songs", "train for fewer steps, or lower --lr")
    return Verdict("flat", "nothing gained", f"on held-out {gain.pieces} the adapter is no better than the base")


def judge_base(check: BaseCheck | None, after: float | None) -> Verdict | None:
    """Judge a base that is no better than a guess after its training; None where it is better, or not scored."""
    if check is None or after is None or BaseCheck(after, check.guess).is_known:
        return None
    words = f"held-out loss {after:.3f}, a guess has {check.guess:.3f}; train longer, or on more music"
    return Verdict("lost", "the base does not know this music yet", words)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a folder.

    Attributes:
        backend: name of the backend.
        score: with the adapters, or of the base without adapters.
        base: of the base alone, None without adapters.
        gain: base minus adapted, with its spread over the songs that the adapters were not trained on; over all songs
            where that is not recorded, or where they were trained on all. None without adapters.
        songs: number of songs, or recordings, scored.
        notes: remarks for the user.
        check: loss of the base, or of the model without adapters, next to that of a guess.
        trained_on: number of songs that the adapters record as trained on.
        pieces: `songs` or `recordings`.
        by_instrument, base_by_instrument: scores of the notes of each instrument, by name, for `score` and `base`;
            empty for recordings.
    """

    backend: str
    score: Score | FlowScore
    base: Score | FlowScore | None
    gain: Gain | None
    songs: int
    notes: tuple[str, ...]
    check: BaseCheck | None = None
    trained_on: int = 0
    pieces: str = "songs"
    by_instrument: Mapping[str, InstrumentScore] = field(default_factory=dict)
    base_by_instrument: Mapping[str, InstrumentScore] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict | None:
        """Verdict on the gain; None without adapters."""
        if self.gain is None:
            return None
        only = self.trained_on if self.trained_on >= self.songs else 0
        return judge_adapter(self.gain, self.check, only, self.pieces)

    def as_json(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        base, difference, check = (asdict(part) if part else None for part in (self.base, self.gain, self.check))
        if base is not None:
            base |= _instruments_json(self.base_by_instrument)
        return {
            **asdict(self.score),
            **_instruments_json(self.by_instrument),
            "backend": self.backend,
            "songs": self.songs,
            "trained_on": self.trained_on,
            "base": base,
            "gain": difference,
            "base_check": check,
            "verdict": asdict(self.verdict) if self.verdict else None,
        }

    def lines(self) -> list[str]:
        """Format the scores as a table."""
        rows = [("base", self.base), ("with adapter", self.score)] if self.base else [("model", self.score)]
        lines = [f"{count_pieces(self.songs, self.pieces)} on {self.backend}", f"{'':14}{self.score.heading()}"]
        lines += [f"{name:14}{part.row()}" for name, part in rows if part]
        lines += instrument_lines(self.by_instrument, self.base_by_instrument)
        if self.trained_on:
            rest = self.songs - self.trained_on
            which = f"{self.trained_on:,} of the {self.songs:,} {self.pieces}; the gain is over the other {rest:,}"
            lines.append(f"the adapter was trained on {which if rest > 0 else 'all of them'}")
        scored = self.songs - self.trained_on or self.songs
        if self.gain and self.gain.songs < scored:
            lines.append(f"near duplicates count once: {scored:,} {self.pieces} are {self.gain.songs:,} different ones")
        if self.gain and self.verdict:
            lines += [self.gain.describe(), self.verdict.line()]
        return lines


def _instruments_json(scores: Mapping[str, InstrumentScore]) -> dict[str, Any]:
    return {"loss_by_instrument": {name: asdict(score) for name, score in scores.items()}} if scores else {}
