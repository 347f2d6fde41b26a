"""Lines that say what a tokenizer keeps of songs and what it loses."""

from __future__ import annotations

from collections.abc import Iterable

from musiclora.symbolic.tokens.holds import Holds
from musiclora.symbolic.tokens.kept import Kept


def describe_kept(kept: Kept, holds: Holds) -> list[str]:
    """Say in at most two lines what the tokens keep of the notes and what else they lose; empty without songs."""
    if not kept.songs:
        return []
    left_out = _join(list_left_out(kept, holds))
    share = int(100 * kept.kept / kept.notes) if kept.notes else 0
    total = f"{kept.notes:,} note{_plural(kept.notes)}"
    lines = [f"the tokens keep {kept.kept:,} of {total} ({share} %); left out: {left_out}"]
    if not left_out:
        lines = [f"the tokens keep all {total}"]
    if lost := _join(_list_losses(kept, holds)):
        lines.append(f"the tokens lose {lost}")
    return lines


def list_left_out(kept: Kept, holds: Holds) -> list[str]:
    """List the notes that the tokens leave out, by reason."""
    low, high = holds.pitches
    return _name_counts(
        (
            (kept.drums, "drum note{s}"),
            (kept.foreign, "note{s} of instruments without a token"),
            (kept.crowded, f"note{{s}} of instruments past the {holds.most_instruments} that a song may have"),
            (kept.outside, f"note{{s}} outside {low}..{high}"),
            (kept.unisons, "unison{s}"),
            (kept.merged, "near-unison{s} (of one pitch and onset on its grid)"),
        )
    )


def _list_losses(kept: Kept, holds: Holds) -> list[str]:
    """List what is lost besides notes."""
    heard = " (kept in the notes' times only)" if holds.in_seconds else ""
    return [
        *([f"the loudness of {kept.levelled:,} note{_plural(kept.levelled)}"] if kept.levelled else []),
        *(
            [f"the tempo of {kept.retimed:,} song{_plural(kept.retimed)} ({_describe_lengths(kept)})"]
            if kept.retimed
            else []
        ),
        *_name_counts(
            (
                (kept.tempos, f"tempo change{{s}}{heard}"),
                (kept.metres, "time signature{s}"),
            )
        ),
        *list_playing_lost(kept, holds),
        *_name_counts(
            (
                (kept.tracks - kept.tracks_kept, f"of {kept.tracks:,} track{_plural(kept.tracks)} (merged)"),
                (
                    kept.instruments - kept.instruments_kept,
                    f"of {kept.instruments:,} instrument{_plural(kept.instruments)}",
                ),
            )
        ),
    ]


def list_playing_lost(kept: Kept, holds: Holds) -> list[str]:
    """List the pedal, the pitch bends and the long durations that are lost."""
    longest = f"{holds.longest:g} {'beats' if holds.beats_by_metre else 'quarters'}"
    if holds.in_seconds:
        longest = f"{holds.longest_seconds:g} seconds"
    return _name_counts(
        (
            (kept.pedals, "pedal event{s}"),
            (kept.bends, "pitch bend{s}"),
            (kept.shortened, f"duration{{s}} over {longest} (cut)"),
        )
    )


def _describe_lengths(kept: Kept) -> str:
    digits = 0 if kept.seconds >= 100 else 1
    return f"{kept.seconds:,.{digits}f} s of music decode to {kept.seconds_kept:,.{digits}f} s"


def _name_counts(counts: Iterable[tuple[int, str]]) -> list[str]:
    return [f"{count:,} {words.format(s=_plural(count))}" for count, words in counts if count]


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _join(parts: list[str]) -> str:
    return ", ".join(parts)
