"""Request for generated pieces, and a generated piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.backends.base import SamplingSpec
from musiclora.convert.files.atomic import atomic_write
from musiclora.errors import ConfigError
from musiclora.generation_result import MOST_PIECES, MOST_SEED, options_below, options_outside
from musiclora.symbolic.decoding.loudness import Loudness
from musiclora.symbolic.decoding.redraw import Redraw

if TYPE_CHECKING:
    from symusic import Score

MOST_TOKENS = 1_000_000  # of a piece: a day of music and more
_DEFAULT_TOKENS = 1024
_DEFAULT_TOP_K = 50


@dataclass(frozen=True)
class GenerationRequest:
    """Settings of a generation.

    Attributes:
        max_new_tokens: most tokens drawn for each piece; may exceed the model's context length. None is 1024, and no
            bound where the end is known (accompany, infill).
        temperature, top_k, top_p: see SamplingSpec; a top_k of None is 50, or 0 for arrival-time tokens.
        seed: piece i of one seed is the same for every count.
        count: number of pieces.
        prompt: score to continue, or None.
        prompt_bars: bars of the prompt to keep; 0 keeps all.
        from_end: keep the prompt's last bars instead of its first.
        notes_at_once: most notes that begin at one onset; None is the bound of the tokenizer.
        instruments: programs that may be drawn, -1 for drums; None for any.
        accompany: score whose parts are given, or None.
        parts: parts of it that are given, as `parts.find_parts` reads them; none stands for all.
        infill: score with a gap to fill, or None.
        from_seconds, to_seconds: the gap.
        loudness: of notes whose tokens hold none; None is the default.
        redraw: rule by which pieces are drawn again that copy; None draws each piece once.
    """

    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 0.95
    seed: int = 42
    count: int = 1
    prompt: Score | None = None
    prompt_bars: int = 0
    from_end: bool = False
    notes_at_once: int | None = None
    instruments: frozenset[int] | None = None
    accompany: Score | None = None
    parts: tuple[str, ...] = ()
    infill: Score | None = None
    from_seconds: float = 0.0
    to_seconds: float = 0.0
    loudness: Loudness | None = None
    redraw: Redraw | None = None

    def __post_init__(self) -> None:
        bounds = [("count", 1, MOST_PIECES), ("seed", 0, MOST_SEED)]
        if self.max_new_tokens is not None:
            bounds.insert(0, ("max_new_tokens", 1, MOST_TOKENS))
        problems = [*options_outside(self, bounds), *options_below(self, [("prompt_bars", 0)])]
        try:
            self.sampling(0)
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def has_end(self) -> bool:
        """True where a given score tells where the piece ends."""
        return self.accompany is not None or self.infill is not None

    @property
    def given_score(self) -> Score | None:
        """Score that is continued or completed; None for a new piece."""
        return next((score for score in (self.prompt, self.accompany, self.infill) if score is not None), None)

    @property
    def most_tokens(self) -> int:
        """Most tokens drawn for each piece."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return MOST_TOKENS if self.has_end else _DEFAULT_TOKENS

    def sampling(self, top_k: int = _DEFAULT_TOP_K, eos_id: int | None = None, pad_id: int = 0) -> SamplingSpec:
        """Build the settings of the sampler; `top_k` is what stands for None."""
        return SamplingSpec(self.temperature, top_k if self.top_k is None else self.top_k, self.top_p, eos_id, pad_id)


@dataclass(frozen=True)
class GeneratedPiece:
    """Generated piece.

    Attributes:
        number: number in the request, from 1.
        score: score in ticks.
        ids: model tokens of prompt and continuation, without BOS and EOS, before trimming.
        prompt_notes: number of notes that were given.
        notes: number of all notes.
        ended: True where the model drew EOS.
        remarks: remarks for the user on what was given, and on the piece.
        ending: how the piece ends, in words; empty where a bar line or EOS ends it.
        given: score of the given notes, in the ticks of `score`; None without any.
        redraws: how often it was drawn again.
    """

    number: int
    score: Score
    ids: list[int]
    prompt_notes: int
    notes: int
    ended: bool
    remarks: tuple[str, ...] = ()
    ending: str = ""
    given: Score | None = None
    redraws: int = 0

    def save(self, path: Path, *, overwrite: bool = True) -> None:
        """Write the piece as a MIDI file that appears whole or not at all.

        Raises:
            OutputError: the file exists and overwrite is off, or the system refuses to write.
        """
        atomic_write(path, bytes(self.score.dumps_midi()), overwrite=overwrite)
