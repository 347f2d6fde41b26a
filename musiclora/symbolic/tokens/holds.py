"""Facts of music that a tokenizer's tokens can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from musiclora.music.instruments import DRUMS as DRUMS

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer

PITCH_STARTS = ("Pitch", "NoteOn")  # types of the tokens that begin an instrument's note
_DRUM_STARTS = ("PitchDrum", "DrumOn")


@dataclass(frozen=True)
class Holds:
    """Facts of music that a tokenizer's tokens can hold.

    Attributes:
        pitches: lowest and highest MIDI pitch.
        drum_pitches: lowest and highest MIDI pitch of drums.
        programs: MIDI programs, -1 for drums; empty where all notes are one piano's.
        velocities: number of loudness levels; 0: notes have no loudness.
        tempos, metres, pedals, bends: True where there are tokens for them.
        longest: longest duration in quarters, or in beats of the metre; 0: no limit.
        beats_by_metre: True where durations are counted in beats of the metre (eighths in 6/8).
        longest_seconds: longest duration in seconds, where times are in seconds; 0: they are in quarters or beats.
        most_instruments: most instruments of a song, besides the drums; 0: no limit.
    """

    pitches: tuple[int, int]
    drum_pitches: tuple[int, int]
    programs: frozenset[int] = frozenset()
    velocities: int = 0
    tempos: bool = False
    metres: bool = False
    pedals: bool = False
    bends: bool = False
    longest: float = 0.0
    beats_by_metre: bool = False
    longest_seconds: float = 0.0
    most_instruments: int = 0

    @property
    def in_seconds(self) -> bool:
        """True where times are in seconds: tempos are heard, and neither they nor bars can be told from the tokens."""
        return self.longest_seconds > 0


def find_pitch_range(tokens: Sequence[str], kinds: Sequence[str], default: tuple[int, int]) -> tuple[int, int]:
    """Find the lowest and highest pitch of some types of tokens; the default where there are none."""
    pairs = (token.partition("_") for token in tokens)
    pitches = [int(value) for kind, _, value in pairs if kind in kinds]
    return (min(pitches), max(pitches)) if pitches else (int(default[0]), int(default[1]))


def find_holds(inner: MidiTokTokenizer, tokens: Sequence[str], one_stream: bool) -> Holds:
    """Find what MidiTok's tokens can hold.

    Args:
        inner: MidiTok's tokenizer.
        tokens: text of each base token.
        one_stream: True where the tokens carry programs and all tracks are in one sequence.
    """
    kinds = {token.partition("_")[0] for token in tokens}
    pitches = find_pitch_range(tokens, PITCH_STARTS, inner.config.pitch_range)
    lengths = [beats + part / parts for beats, part, parts in inner.durations]
    return Holds(
        pitches=pitches,
        drum_pitches=find_pitch_range(tokens, _DRUM_STARTS, pitches),
        programs=frozenset(int(program) for program in inner.config.programs) if one_stream else frozenset(),
        velocities=sum(token.startswith("Velocity_") for token in tokens),
        tempos="Tempo" in kinds,
        metres="TimeSig" in kinds,
        pedals="Pedal" in kinds,
        bends="PitchBend" in kinds,
        longest=max(lengths, default=0.0) if "Duration" in kinds else 0.0,
        beats_by_metre=type(inner).__name__ != "PerTok" and "TimeSig" in kinds,
    )
