"""Styles of the arranger, as tables: which metres, how fast, what the drums, the bass and the chords play in a bar.

A pattern is a string of equal slots of one bar. Drums: `X` accent, `x` stroke, `o` soft. Bass: `1` root, `3`, `5`, `8`
(octave), `-` holds. Chords: `X`, `x` as for drums, `-` holds; `a` is the next note of an arpeggio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# General MIDI drum notes by the letter that the patterns name them with.
DRUMS = {
    "K": 36, "S": 38, "R": 37, "H": 42, "P": 44, "O": 46, "C": 49, "D": 51, "B": 53, "T": 54, "W": 56, "M": 70,
    "l": 41, "f": 43, "t": 45, "m": 47, "h": 50, "A": 39, "G": 62, "g": 63, "c": 64, "b": 75,
}  # fmt: skip
FILL_DRUMS = "Shmtf"  # from high to low

_FOLK_LEAD = (40, 110, 73, 78, 21, 74, 75, 22, 105, 68, 71, 109, 72, 15, 23, 79, 77)
_POP_LEAD = (0, 4, 80, 81, 73, 66, 65, 56, 54, 27, 11, 40, 25, 82, 85, 87, 64, 67, 53)
_FOLK_CHORDS = (25, 24, 21, 46, 105, 0, 15, 23, 22, 107, 6)
_POP_CHORDS = (0, 1, 2, 4, 5, 25, 27, 26, 16, 17, 18, 90, 62, 7, 28, 3)
_ROCK_CHORDS = (29, 30, 27, 18, 31, 28)
_BASS = (32, 33, 34, 35, 36, 38, 39, 37, 43)
_PADS = (48, 49, 50, 51, 52, 89, 91, 92, 95, 19, 53, 88, 90, 93, 94, 20, 44)
_COUNTER = (40, 41, 42, 60, 70, 71, 68, 73, 64, 66, 57, 11, 52, 69, 45, 48, 65, 67, 12, 13)
_BRASS = (56, 57, 60, 61, 58, 59, 62, 63)
_SOFT_LEAD = (68, 73, 40, 0, 46, 71, 52, 42, 24, 75, 41, 69, 8, 9, 10, 11, 14, 47, 104, 106, 108, 111)


@dataclass(frozen=True)
class Style:
    """One way to accompany a tune.

    Attributes:
        name: its name.
        metres: metres that its patterns fit.
        tempo: lowest and highest quarters a minute.
        drums: drum patterns to draw from; each maps letters of `DRUMS` to a string of slots. Empty: no drums.
        bass: bass patterns to draw from.
        chords: patterns of the chords to draw from.
        programs: General MIDI programs of lead, chords, bass, pad and counter to draw from.
        gate: share of its time that a struck chord sounds.
        sevenths: chance that chords get their diatonic seventh.
        power: True where chords are root and fifth.
        pad, counter: chance of these parts.
        any_program: chance that a part's program is drawn from all that are no bass and no noise, not from `programs`.
        share: weight in the draw among the styles of a metre.
    """

    name: str
    metres: tuple[str, ...]
    tempo: tuple[int, int]
    drums: tuple[Mapping[str, str], ...]
    bass: tuple[str, ...]
    chords: tuple[str, ...]
    programs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gate: float = 0.5
    sevenths: float = 0.0
    power: bool = False
    pad: float = 0.25
    counter: float = 0.3
    any_program: float = 0.12
    share: float = 1.0


def _families(
    lead: tuple[int, ...], chords: tuple[int, ...], bass: tuple[int, ...] = _BASS
) -> dict[str, tuple[int, ...]]:
    return {"lead": lead, "chords": chords, "bass": bass, "pad": _PADS, "counter": _COUNTER}


_FOLK = _families(_FOLK_LEAD, _FOLK_CHORDS)
_POP = _families(_POP_LEAD, _POP_CHORDS)
_ROCK = _families((29, 30, 27, 81, 54, 80, 66, 84, 31), _ROCK_CHORDS, (33, 34, 33, 35))
_BAND = _families((56, 72, 71, 73, 57, 109), _BRASS, (58, 43, 70))
_SOFT = _families(_SOFT_LEAD, (46, 0, 24, 88, 48, 6, 4, 8, 12), (43, 32, 42, 35))
_COUNTRY = _families((110, 105, 40, 25, 22, 26), (25, 24, 105, 0, 26), (32, 33))
_DANCE = _families((80, 81, 82, 85, 62, 83, 86, 99, 103), (50, 90, 63, 81, 5, 98, 96), (38, 39, 87))
_LATIN = _families((73, 66, 0, 24, 11, 65, 26), (24, 0, 26, 4), (32, 33, 35))

TRAINING_STYLES = (
    Style("reel", ("4/4",), (168, 216),
          ({"K": "x...x...", "H": "..x...x."}, {"K": "X...x..x", "R": "..x...x.", "T": "xoxoxoxo"},
           {"l": "X.oxx.ox", "T": "..x...x."}, {"K": "x...x...", "S": "..X...X.", "H": "x.x.x.x."}),
          ("1...5...", "1-..5-..", "1...1.5.", "1---5---"), ("x.xxx.xx", "..x...x.", "x...x...", "X..x..x."), _FOLK,
          share=2.0),
    Style("country", ("4/4", "2/4"), (160, 210),
          ({"K": "x...x...", "S": "..x...x."}, {"K": "x...x...", "S": "ooXoooXo"},
          {"K": "X...x...", "R": "..x...x.", "H": "x.x.x.x."}),
          ("1...5...", "1-..5-.."), ("..x...x.", "x.x.x.x."), _COUNTRY, sevenths=0.1),
    Style("march", ("4/4", "2/4"), (108, 132),
          ({"K": "X...x...", "S": "x.xxx.xx"}, {"K": "X...x...", "S": "X.x.X.xx", "C": "....x..."},
          {"K": "X...X...", "S": "..x...xx"}),
          ("1...5...",), ("..x...x.", "x...x..."), _BAND, gate=0.6, counter=0.4),
    Style("pop", ("4/4",), (92, 132),
          ({"K": "X.....x.", "S": "..X...X.", "H": "xxxxxxxx"}, {"K": "X..xx...", "S": "..X...X.", "H": "x.x.x.x."},
           {"K": "X.....x...x.....", "S": "....X.......X..o", "H": "x.x.x.x.x.x.x.x."},
           {"K": "X...x.x.", "A": "..X...X.", "M": "xoxoxoxo"}),
          ("1..11.1.", "1.....1.", "1---1.5.", "1.1.5.1."), ("x---x---", "x-x-xxx-", "X--x--x-", "aaaaaaaa"), _POP,
          gate=1.0, sevenths=0.2, pad=0.4, share=2.0),
    Style("rock", ("4/4",), (104, 152),
          ({"K": "X...x.x.", "S": "..X...X.", "H": "xxxxxxxx"}, {"K": "X.xx.x..", "S": "..X...X.", "D": "x.x.x.x."},
          {"K": "X...X...", "S": "..X...X.", "O": "x.x.x.x."}),
          ("11111111", "1.111.11", "1.1.1.5."), ("xxxxxxxx", "x-x-x-xx", "X-----xx", "x.xx.xx."), _ROCK, gate=0.9,
          power=True, pad=0.15),
    Style("ballad", ("4/4",), (63, 88),
          ({"K": "X.......x.......", "R": "....x.......x...", "H": "x.x.x.x.x.x.x.x."},
          {"K": "X.....x.", "S": "....X...", "H": "x.x.x.x."}, {"D": "x.x.x.x.", "R": "..x...x.", "K": "x...x..."}),
          ("1-------", "1---5---", "1--.5-1-"), ("aaaaaaaa", "x-------", "x---x---"),
          _families((*_SOFT_LEAD, 54, 66, 65), _POP_CHORDS), gate=1.0, sevenths=0.35, pad=0.5),
    Style("disco", ("4/4", "2/4"), (110, 132),
          ({"K": "X.x.x.x.", "O": ".x.x.x.x"}, {"K": "X.x.X.x.", "A": "..X...X.", "O": ".x.x.x.x"},
          {"K": "X.x.x.x.", "S": "..X...X.", "H": "xoxoxoxo"}),
          ("1.8.1.8.", "1.1.8.1.", ".1.1.1.1"), ("x--x--x-", ".x.x.x.x", "x-------"), _DANCE, gate=0.8,
          sevenths=0.2, pad=0.5),
    Style("bossa", ("4/4",), (116, 144),
          ({"R": "x..x..x.", "H": "xxxxxxxx", "K": "x..xx..x"}, {"b": "x..x..x.", "M": "xxxxxxxx", "K": "x..xx..x"},
          {"g": "..x...x.", "c": "......xx", "M": "xoxoxoxo"}),
          ("1-.55-.5", "1-.51-.5"), ("x.x..x.x", "x..x..x."), _LATIN, sevenths=0.8, gate=0.7, share=0.6),
    Style("hop", ("4/4",), (132, 176),
          ({"D": "x.....x..x..", "P": "...x.....x..", "K": "o.....o....."},
          {"K": "x.....x.....", "S": "...x.....x..", "H": "x.xx.xx.xx.x"}),
          ("1..3..5..3..", "1..1..5..5..", "1.....5....."), ("...x.....x..", "x.....x....."), _families((71, 40, 56,
          65, 0, 26, 11, 72), (26, 0, 25, 24, 105), (32, 43, 58)), sevenths=0.3, share=0.8),
    Style("polka", ("2/4",), (104, 132),
          ({"K": "x...x...", "S": "..x...x."}, {"K": "X...x...", "H": "..x...x.", "S": "..o...oo"},
          {"K": "x...x...", "T": "..x...x."}),
          ("1...5...",), ("..x...x.", "..xx..xx"), _families(_FOLK_LEAD, (21, 23, 25, 105, 0), (58, 32, 33)),
          share=1.5),
    Style("two-four", ("2/4",), (84, 116),
          ({"K": "X.....x.", "S": "....X...", "H": "x.x.x.x."}, {"K": "X..x....", "S": "....X...", "H": "xoxoxoxo"},
          {"K": "x.......", "R": "....x...", "M": "x.x.x.x."}),
          ("1---5---", "1.1.1.1.", "1--.5-.."), ("x---x---", "a.a.a.a.", "x-------", "x.x.x.x."), _POP, gate=0.9,
          pad=0.3, sevenths=0.1, share=1.5),
    Style("waltz", ("3/4", "3/8"), (100, 168),
          ({"K": "x.....", "S": "..o.o."}, {"K": "x.....", "H": "..x.x."},
          {"D": "x.x.xx", "K": "x.....", "R": "..x.x."}, {"K": "X.....", "S": "..x.x.", "H": "x.x.x."}),
          ("1.....", "1---5.", "1-----"), ("..x.x.", "x-x-x-", "..x---"),
          _families((*_FOLK_LEAD, 0, 65), (*_FOLK_CHORDS, 48, 1)), share=2.0),
    Style("three-four", ("3/4",), (84, 120),
          ({"K": "X..x..", "S": "....X.", "H": "xxxxxx"}, {"K": "X.....", "S": "..X...", "H": "x.x.x."}),
          ("1---5-", "1.1.5.", "1-----"), ("aaaaaa", "x-----", "x-x-x-"), _POP, gate=1.0, pad=0.4, sevenths=0.2),
    Style("jig", ("6/8", "12/8", "9/8"), (150, 190),
          ({"K": "x..", "H": "..x"}, {"l": "X.x", "T": "..o"}, {"K": "x..", "R": "..x", "M": "xox"},
          {"K": "X..", "S": "..x", "H": "x.x"}),
          ("1..5..", "1-.5-.", "1..1.5"), ("x.xx.x", "..x..x", "x..x..", "X.x..x"), _FOLK, share=2.0),
    Style("six-eight", ("6/8", "12/8"), (120, 165),
          ({"K": "X.....", "S": "...X..", "H": "xxxxxx"}, {"K": "X....x", "S": "...X..", "H": "x.xx.x"},
          {"K": "X..x..", "S": "...X..", "D": "x.xx.x"}),
          ("1.....", "1--5--", "1.11.1", "1-----"), ("x--x--", "aaaaaa", "x.xx.x", "x-----"), _POP, gate=0.9,
          pad=0.35, sevenths=0.1),
    Style("rock six", ("6/8", "9/8"), (140, 185),
          ({"K": "X..", "S": "..X", "H": "xxx"}, {"K": "X.x", "O": "x..", "S": "..x"}),
          ("1.11.1", "111111"), ("xxxxxx", "x-xx-x", "x--x--"), _ROCK, gate=0.9, power=True, pad=0.1, share=0.7),
    Style("march six", ("6/8",), (140, 180),
          ({"K": "X..x..", "S": "x.xx.x"}, {"K": "X..X..", "S": "X.xX.x", "C": "x....."}),
          ("1..5..",), ("..x..x", "x..x.."), _BAND, gate=0.6, counter=0.4, share=0.7),
    Style("air", ("6/8", "9/8", "12/8", "3/8"), (66, 104), (), ("1-----", "1--5--"), ("aaaaaa", "x-----"), _SOFT,
          gate=1.0, pad=0.6, counter=0.5, share=0.6),
    Style("slow air", ("4/4", "3/4", "2/4", "3/2", "6/4"), (56, 84), ({"D": "o...", "K": "o..."}, {}, {}),
          ("1-------", "1---5---"), ("x-------", "aaaaaaaa"), _SOFT, gate=1.0, pad=0.7, counter=0.5, sevenths=0.15,
          share=0.7),
)  # fmt: skip

# Not in the training set: the style that the demonstration adapts the base to.
TARGET_STYLE = Style(
    "ska", ("4/4", "2/4", "3/4"), (128, 152),
    ({"K": "..X...X.", "R": "..X...X.", "H": "xoxoxoxo"}, {"K": "x.X.x.X.", "S": "..X...X.", "H": ".x.x.x.x"}),
    ("1.3.5.3.", "1.1.3.5.", "1.5.3.1."), (".X.X.X.X",),
    {"lead": (57, 66, 56), "chords": (28, 16), "bass": (33,), "pad": (18,), "counter": (67, 57, 66)},
    gate=0.4, sevenths=0.0, pad=0.0, counter=0.8, any_program=0.0,
)  # fmt: skip
