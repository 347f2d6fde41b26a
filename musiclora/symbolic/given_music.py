"""Music that a generation is given: files and options, checked together, as parts of a request."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.errors import ConfigError, DataError, option_name
from musiclora.music.bars import bar_lines
from musiclora.music.instruments import parse_instruments
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.decoding.songs_record import ANY_INSTRUMENTS
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer

if TYPE_CHECKING:
    from symusic import Score

_GAP_BARS, _GAP_SECONDS = ("from_bar", "to_bar"), ("from_seconds", "to_seconds")


@dataclass(frozen=True)
class GivenMusic:
    """Files and options of what a generation is given.

    Attributes:
        prompt: MIDI, MusicXML or ABC file to continue.
        instruments: value of --instruments: what may be drawn, or `any`; None for those of the training songs.
        accompany: file whose parts stay.
        parts: value of --parts: those that stay; None for all.
        infill: file with a gap.
        from_bar, to_bar: first and last bar of the gap, from 1.
        from_seconds, to_seconds: the gap in seconds, instead of bars.
    """

    prompt: Path | None = None
    instruments: str | None = None
    accompany: Path | None = None
    parts: str | None = None
    infill: Path | None = None
    from_bar: int | None = None
    to_bar: int | None = None
    from_seconds: float | None = None
    to_seconds: float | None = None

    def files(self) -> dict[str, Path | None]:
        """Return the files by option."""
        return {"--prompt": self.prompt, "--accompany": self.accompany, "--infill": self.infill}

    def add_to(self, request: GenerationRequest) -> tuple[GenerationRequest, list[str]]:
        """Read the files and add them to a request.

        Returns:
            the request, and remarks on what was found and mended in the files.

        Raises:
            ConfigError: options that do not go together.
            DataError: a file that cannot be read, or a gap outside it.
        """
        self._check_options(request)
        chosen = request.instruments if self.instruments is None else _read_instruments(self.instruments)
        parts = request.parts if self.parts is None else _split_list(self.parts)
        request = dataclasses.replace(request, instruments=chosen, parts=parts)
        if self.prompt is not None:
            score, remarks = _read_score("--prompt", self.prompt)
            remarks += _describe_bars(score, request)
            return dataclasses.replace(request, prompt=score), remarks
        if self.accompany is not None:
            score, remarks = _read_score("--accompany", self.accompany, as_played=True)
            return dataclasses.replace(request, accompany=score), remarks
        if self.infill is not None:
            score, remarks = _read_score("--infill", self.infill, as_played=True)
            first, last = self._find_gap(score)
            return dataclasses.replace(request, infill=score, from_seconds=first, to_seconds=last), remarks
        return request, []

    def _check_options(self, request: GenerationRequest) -> None:
        """Raise ConfigError for options that do not go together, or lack one that they need."""
        given = [option for option, path in self.files().items() if path is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: give one of them; each says what the new notes are for")
        if self.prompt is None and (request.prompt_bars or request.from_end):
            option = "--prompt-bars" if request.prompt_bars else "--from-end"
            raise ConfigError(f"{option}: there is no --prompt to take bars of")
        if request.from_end and not request.prompt_bars:
            raise ConfigError("--from-end: give --prompt-bars N, the number of bars to take from the end")
        if self.parts is not None and self.accompany is None:
            raise ConfigError("--parts: there is no --accompany to take parts of")
        bars, seconds = (
            [name for name in names if getattr(self, name) is not None] for names in (_GAP_BARS, _GAP_SECONDS)
        )
        if (bars or seconds) and self.infill is None:
            names = ", ".join(option_name(name) for name in [*bars, *seconds])
            raise ConfigError(f"{names}: there is no --infill with a gap")
        if self.infill is not None and (bool(bars) == bool(seconds) or len(bars or seconds) < 2):
            raise ConfigError(
                "--infill: give the gap as --from-bar and --to-bar, or as --from-seconds and --to-seconds"
            )

    def _find_gap(self, score: Score) -> tuple[float, float]:
        """Return the gap in seconds.

        Raises:
            ConfigError: it is empty or begins before the file.
            DataError: it lies outside the file.
        """
        if self.from_bar is None or self.to_bar is None:
            first, last = self.from_seconds or 0.0, self.to_seconds or 0.0
            if not 0 <= first < last < float("inf"):
                raise ConfigError(
                    f"--from-seconds {first:g} --to-seconds {last:g}: it must begin at 0 or later and end after that"
                )
            _check_end(score, first, last)
            return first, last
        if not 1 <= self.from_bar <= self.to_bar:
            raise ConfigError(
                f"--from-bar {self.from_bar} --to-bar {self.to_bar}: bars count from 1, the last is no earlier"
            )
        lines = bar_lines(score, int(score.end()))
        if self.to_bar >= len(lines):
            raise DataError(f"--to-bar {self.to_bar}: the file has {_count_bars(len(lines) - 1)}")
        clock = Clock(score)
        return float(clock.seconds(lines[self.from_bar - 1])), float(clock.seconds(lines[self.to_bar]))


def _describe_bars(score: Score, request: GenerationRequest) -> list[str]:
    """Say that a prompt has fewer bars than are asked for; nothing where it has enough."""
    bars = len(bar_lines(score, int(score.end()))) - 1
    if request.prompt_bars <= bars:
        return []
    return [f"--prompt-bars {request.prompt_bars}: the file has {_count_bars(bars)}; all of it is continued"]


def _check_end(score: Score, first: float, last: float) -> None:
    """Raise DataError for a gap that begins in the file and ends behind its last bar, to the next whole second."""
    clock, end = Clock(score), int(score.end())
    if first < float(clock.seconds(end)) and last > math.ceil(float(clock.seconds(bar_lines(score, end)[-1]))):
        raise DataError(f"--to-seconds {last:g}: the file ends at {float(clock.seconds(end)):.2f} s")


def _count_bars(count: int) -> str:
    return f"{count} bar{'' if count == 1 else 's'}"


def _read_instruments(text: str) -> frozenset[int] | None:
    """Read the value of --instruments; None for `any`."""
    return None if text.strip().lower() == ANY_INSTRUMENTS else frozenset(parse_instruments(text))


def _split_list(text: str) -> tuple[str, ...]:
    """Split the value of --parts at its commas.

    Raises:
        ConfigError: it names nothing.
    """
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise ConfigError("--parts: names no part; give for example melody,#2,bass")
    return parts


def _read_score(option: str, path: Path, *, as_played: bool = False) -> tuple[Score, list[str]]:
    """Read one score.

    Args:
        option: the option, for messages.
        path: MIDI, MusicXML or ABC file.
        as_played: keep all tempo changes, the order of notes, silences and long notes, which come back as they are.

    Returns:
        the score, and remarks on what was found and mended in it.

    Raises:
        DataError: there is no such file, or it holds several tunes or none.
    """
    if not path.is_file():
        reason = "is a folder; give one file" if path.is_dir() else "there is no such file"
        raise DataError(f"{option} {path}: {reason}")
    reading = read_music(path, workers=1, tokenizer=ArrivalTokenizer() if as_played else None, as_given=as_played)
    if len(reading.songs) > 1:
        raise DataError(f"{option} {path}: holds {len(reading.songs)} tunes; give a file with one")
    remarks = [text for row in reading.health for text in row.why.split("; ") if text and row.status != "skipped"]
    # Given notes are kept as they are, whatever the tokens make of them.
    remarks = [text for text in remarks if not text.startswith("left out") and "merged into" not in text]
    return reading.songs[0].score, [f"{option}: {text}" for text in remarks]
