"""Lines that say what a tokenizer keeps of songs and what it loses."""

from __future__ import annotations

from collections.abc import Iterable

from musiclora.symbolic.tokens.kept import Holds, Kept


def describe_kept(kept: Kept, holds: Holds) -> list[str]:
    """Say in at most two lines what the tokens keep of the notes and what else they lose; empty without songs."""
    if not kept.songs:
        return []
    left_out = _join(list_left_out(kept, holds))
    share = int(100 * kept.kept / kept.notes) if kept.notes else 0
    notes = f"the tokens keep {kept.kept:,} of {kept.notes:,} notes ({share} %)"
    lines = [f"{notes}; left out: {left_out}" if left_out else f"the tokens keep all {kept.notes:,} notes"]
    if lost := _join(_list_losses(kept, holds)):
        lines.append(f"the tokens lose {lost}")
    return lines


def list_left_out(kept: Kept, holds: Holds) -> list[str]:
    """List the notes that the tokens leave out, by reason."""
    low, high = holds.pitches
    return _name_counts(
        (
            (kept.drums, "drum notes"),
            (kept.foreign, "notes of instruments without a token"),
            (kept.outside, f"notes outside {low}..{high}"),
            (kept.unisons, "unisons"),
            (kept.merged, "near-unisons (the same pitch and onset on its grid)"),
        )
    )


def _list_losses(kept: Kept, holds: Holds) -> list[str]:
    """List what is lost besides notes."""
    unit = "beats" if holds.beats_by_metre else "quarters"
    return [
        *([f"the loudness of {kept.levelled:,} notes"] if kept.levelled else []),
        *([f"the tempo of {kept.retimed:,} songs ({_describe_lengths(kept)})"] if kept.retimed else []),
        *_name_counts(
            (
                (kept.tempos, "tempo changes"),
                (kept.metres, "time signatures"),
                (kept.pedals, "pedal presses"),
                (kept.bends, "pitch bends"),
                (kept.shortened, f"durations over {holds.longest:g} {unit} (cut)"),
                (kept.tracks - kept.tracks_kept, f"of {kept.tracks:,} tracks (merged)"),
                (kept.instruments - kept.instruments_kept, f"of {kept.instruments:,} instruments"),
            )
        ),
    ]


def _describe_lengths(kept: Kept) -> str:
    digits = 0 if kept.seconds >= 100 else 1
    return f"{kept.seconds:,.{digits}f} s of music decode to {kept.seconds_kept:,.{digits}f} s"


def _name_counts(counts: Iterable[tuple[int, str]]) -> list[str]:
    return [f"{count:,} {words}" for count, words in counts if count]


def _join(parts: list[str]) -> str:
    return ", ".join(parts)
