"""ABC notation of a notated score: one voice for each part that plays one note or chord at a time.

Format: the ABC music standard 2.1 (abcnotation.com).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from musiclora.convert.errors import DataError
from musiclora.symbolic.rendering.notation import NotatedChord, NotatedPart, Notation

_UNIT = Fraction(1, 2)  # L:1/8 in quarters
_BARS_PER_LINE = 4
_STEPS = "CDEFGAB"
_NATURAL = (0, 2, 4, 5, 7, 9, 11)  # semitones of the steps
_SHARP_ORDER = "FCGDAEB"  # in which a key signature adds sharps; flats come from the end
_MAJOR_KEYS = ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#")  # 7 flats to 7 sharps
_MINOR_KEYS = ("Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#", "G#", "D#", "A#")
_MARKS = {-1: "_", 0: "=", 1: "^"}


def abc_of(notation: Notation, title: str) -> str:
    """Return a score as ABC notation.

    Args:
        notation: the score.
        title: of the tune.

    Raises:
        DataError: a part has drums, or notes that overlap, which a voice of ABC cannot hold.
    """
    for part in notation.parts:
        _check_part(part)
    numerator, denominator = notation.metres[0][1:]
    keys = _MINOR_KEYS if notation.minor else _MAJOR_KEYS
    head = [
        "X:1",
        f"T:{' '.join(title.split()) or 'untitled'}",
        f"M:{numerator}/{denominator}",
        "L:1/8",
        f"Q:1/4={notation.tempos[0][1]:.0f}",
        f"K:{keys[notation.sharps + 7]}{'m' if notation.minor else ''}",
    ]
    several = len(notation.parts) > 1
    lines = list(head)
    end = max(part.chords[-1].end for part in notation.parts)
    for number, part in enumerate(notation.parts, 1):
        if several:
            name = part.name.replace('"', "'").strip()
            lines.append(f"V:{number}" + (f' name="{name}"' if name else ""))
        lines.append(f"%%MIDI program {part.program}")
        lines += _voice_lines(part, notation, end, with_tempos=number == 1)
    return "\n".join(lines) + "\n"


def _check_part(part: NotatedPart) -> None:
    name = part.name or "a part"
    if part.program < 0:
        raise DataError("ABC holds no drums; leave them out with --mute drums, or write .musicxml")
    for before, after in zip(part.chords, part.chords[1:], strict=False):
        if after.onset < before.end:
            raise DataError(
                f"ABC holds one voice in a part, and notes of {name} overlap (quarter {float(after.onset):g}); "
                "write .musicxml, or choose other parts with --solo"
            )


def _voice_lines(part: NotatedPart, notation: Notation, end: Fraction, *, with_tempos: bool) -> Iterator[str]:
    """Yield lines of four bars each."""
    chords, words = list(part.chords), []
    bars = list(_bars(notation, end))
    for number, (begin, stop, metre) in enumerate(bars):
        word = f"[M:{metre}] " if metre and number else ""
        for at, speed in notation.tempos[1:] if with_tempos else ():
            if begin <= at < stop:
                word += f"[Q:1/4={speed:.0f}] "
        word += _bar_text(chords, begin, stop, notation.sharps)
        words.append(word + (" |]" if number == len(bars) - 1 else " |"))
    for first in range(0, len(words), _BARS_PER_LINE):
        yield " ".join(words[first : first + _BARS_PER_LINE])


def _bars(notation: Notation, end: Fraction) -> Iterator[tuple[Fraction, Fraction, str]]:
    """Yield begin and end of each bar, and its metre where it changes."""
    begin, place, length, metre = Fraction(0), 0, Fraction(4), ""
    while begin < end or not begin:
        while place < len(notation.metres) and notation.metres[place][0] <= begin:
            _, numerator, denominator = notation.metres[place]
            metre, length, place = f"{numerator}/{denominator}", Fraction(4 * numerator, denominator), place + 1
        yield begin, begin + length, metre
        begin, metre = begin + length, ""


@dataclass(frozen=True)
class _Word:
    """Note, chord or rest inside one bar."""

    at: Fraction
    length: Fraction
    text: str
    tie: str = ""


def _bar_text(chords: list[NotatedChord], begin: Fraction, stop: Fraction, sharps: int) -> str:
    """Return the notes and rests of a bar; a chord that goes on is tied, thirds are written as triplets."""
    words, text, place = list(_bar_words(chords, begin, stop, sharps)), "", 0
    while place < len(words):
        count = _triplet_size(words[place:])
        group = words[place : place + max(count, 1)]
        if text and (group[0].at - begin).denominator == 1:  # notes without a space between them are beamed
            text += " "
        text += "(3" if count == 3 else f"(3:2:{count}" if count else ""
        longer = Fraction(3, 2) if count else Fraction(1)
        text += "".join(word.text + _length_text(word.length * longer) + word.tie for word in group)
        place += len(group)
    return text


def _bar_words(chords: list[NotatedChord], begin: Fraction, stop: Fraction, sharps: int) -> Iterator[_Word]:
    at, altered = begin, set[int]()
    for chord in chords:
        if chord.end <= begin or chord.onset >= stop:
            continue
        first, last = max(chord.onset, begin), min(chord.end, stop)
        yield from _rests(at, first)
        names = [_note_text(pitch, sharps, altered) for pitch in chord.pitches]
        text = names[0] if len(names) == 1 else f"[{''.join(names)}]"
        yield _Word(first, last - first, text, "-" if last < chord.end else "")
        at = last
    yield from _rests(at, stop)


def _rests(begin: Fraction, stop: Fraction) -> Iterator[_Word]:
    """Yield a rest; one that leaves a triplet in two, so that the second begins on the beat."""
    if begin >= stop:
        return
    beat = min(stop, Fraction(begin.__ceil__()))
    if begin.denominator % 3 == 0 and beat < stop:
        yield _Word(begin, beat - begin, "z")
        begin = beat
    yield _Word(begin, stop - begin, "z")


def _triplet_size(words: Sequence[_Word]) -> int:
    """Return how many words from the first one on make a triplet: up to where the time is no third any more."""
    if words[0].length.denominator % 3:
        return 0
    for count, word in enumerate(words, 1):
        if (word.at + word.length).denominator % 3:
            return count
    return len(words)


def _length_text(length: Fraction) -> str:
    """Return a length in units of L:1/8, such as `2`, `/2` or `2/3`."""
    units = length / _UNIT
    number = "" if units.numerator == 1 else str(units.numerator)
    return number if units.denominator == 1 else f"{number}/{units.denominator}"


def _note_text(pitch: int, sharps: int, altered: set[int]) -> str:
    """Return a note with the accidental that the key does not give.

    Programs differ on whether an accidental holds in other octaves. A step that was altered in a bar therefore has its
    accidental at each of its later notes.

    Args:
        pitch: MIDI pitch.
        sharps: of the key, flats below 0.
        altered: steps of the bar that had an accidental; the note's own is added.
    """
    step, octave, alter = _spell(pitch, sharps)
    mark = ""
    if step in altered or alter != _key_alter(step, sharps):
        mark = _MARKS[alter]
        altered.add(step)
    letter = _STEPS[step]
    if octave >= 5:
        return mark + letter.lower() + "'" * (octave - 5)
    return mark + letter + "," * (4 - octave)


def _spell(pitch: int, sharps: int) -> tuple[int, int, int]:
    """Return step, octave and accidental: the key's own note, else a natural, else a sharp or flat as the key has."""
    choices = []
    for step, semitones in enumerate(_NATURAL):
        for alter in (-1, 0, 1):
            if (pitch - semitones - alter) % 12 == 0:
                own = alter == _key_alter(step, sharps)
                sign = alter * (1 if sharps >= 0 else -1)
                choices.append(((not own, abs(alter), -sign), step, (pitch - semitones - alter) // 12 - 1, alter))
    _, step, octave, alter = min(choices)
    return step, octave, alter


def _key_alter(step: int, sharps: int) -> int:
    """Return the accidental that a key signature gives a step."""
    place = _SHARP_ORDER.index(_STEPS[step])
    if sharps > 0:
        return int(place < sharps)
    return -int(6 - place < -sharps)
