"""General MIDI drums: names, in the order of a drum grid."""

from __future__ import annotations

# From the bottom of a grid up: kick, snares, toms, hats, cymbals, then hand percussion and effects.
DRUM_NAMES = {
    36: "Kick",
    35: "Kick 2",
    38: "Snare",
    40: "Snare 2",
    37: "Side stick",
    39: "Clap",
    41: "Low floor tom",
    43: "High floor tom",
    45: "Low tom",
    47: "Low-mid tom",
    48: "High-mid tom",
    50: "High tom",
    42: "Closed hat",
    44: "Pedal hat",
    46: "Open hat",
    51: "Ride",
    59: "Ride 2",
    53: "Ride bell",
    49: "Crash",
    57: "Crash 2",
    55: "Splash",
    52: "China",
    54: "Tambourine",
    56: "Cowbell",
    58: "Vibraslap",
    69: "Cabasa",
    70: "Maracas",
    82: "Shaker",
    60: "High bongo",
    61: "Low bongo",
    62: "Mute conga",
    63: "Open conga",
    64: "Low conga",
    65: "High timbale",
    66: "Low timbale",
    67: "High agogo",
    68: "Low agogo",
    71: "Short whistle",
    72: "Long whistle",
    73: "Short guiro",
    74: "Long guiro",
    75: "Claves",
    76: "High block",
    77: "Low block",
    78: "Mute cuica",
    79: "Open cuica",
    80: "Mute triangle",
    81: "Open triangle",
    83: "Jingle bell",
    84: "Bell tree",
    85: "Castanets",
    86: "Mute surdo",
    87: "Open surdo",
    27: "High Q",
    28: "Slap",
    29: "Scratch push",
    30: "Scratch pull",
    31: "Sticks",
    32: "Square click",
    33: "Metronome",
    34: "Metronome bell",
}
_ORDER = {number: place for place, number in enumerate(DRUM_NAMES)}


def drum_name(number: int) -> str:
    """Return the short name of a General MIDI drum, `note N` for a number without one."""
    return DRUM_NAMES.get(number, f"note {number}")


def drum_order(number: int) -> tuple[int, int]:
    """Return the sorting key of a drum: its place in a grid from the bottom up; drums without a name come last."""
    return _ORDER.get(number, len(_ORDER)), number
