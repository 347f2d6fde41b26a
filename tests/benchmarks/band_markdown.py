"""Tables of `band_table.py` in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

_MOST_ROWS = 16


class Records(Protocol):
    """Finished cells by key."""

    def __getitem__(self, key: str) -> dict[str, Any]: ...


def markdown(cells: Records, backends: Sequence[str]) -> str:
    """All tables of the backends that were run."""
    parts = [_gains(cells, backends)]
    parts.append(_by_instrument(cells, backends))
    for kind, title in (("notes", "instrument"), ("drums", "drum")):
        parts.append(_shares(cells, backends, kind, title))
    parts += [_fit(cells, backends), _crossing(cells, backends)]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _gains(cells: Records, backends: Sequence[str]) -> str:
    rows = []
    for backend in backends:
        c = cells[f"{backend}/train"]
        g = c["gain"]
        interval = f"{g['mean']:.3f} ({g['low']:.3f} to {g['high']:.3f}), {c['verdict']}"
        bits = [f"{c[when]['bits_per_note']:.3f}" for when in ("before", "after")]
        rows.append([backend, str(g["songs"]), *bits, interval, str(c["steps"]), f"{c['train_seconds']:.0f}"])
    head = ("backend", "held-out songs", "base, bits a note", "adapted", "gain (95 %)", "steps", "seconds")
    return _table(head, rows)


def _by_instrument(cells: Records, backends: Sequence[str]) -> str:
    """Bits a note by instrument, each backend's adapter scored by its own backend."""
    before = cells["base"]["by_instrument"]
    after = [cells[f"{backend}/scores"]["held_out"][backend]["by_instrument"] for backend in backends]
    rows = []
    for name, base in before.items():
        bits = [base["bits_per_note"], *(found[name]["bits_per_note"] for found in after)]
        rows.append([name, str(base["notes"] or ""), *(f"{value:.3f}" for value in bits)])
    return _table(("bits a note of held-out songs", "notes", "base", *(f"adapted ({b})" for b in backends)), rows)


def _columns(cells: Records, backends: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {"songs": cells["songs"]}
    for backend in backends:
        for kind in ("adapted", "base"):
            found[f"{kind} ({backend})"] = cells[f"{backend}/new_pieces"][kind]
    return found


def _shares(cells: Records, backends: Sequence[str], kind: str, title: str) -> str:
    columns = _columns(cells, backends)
    names = list(dict.fromkeys([*columns["songs"][kind], *(n for c in columns.values() for n in c[kind])]))
    rows = [[name, *(_percent(_share(c[kind], name)) for c in columns.values())] for name in names[:_MOST_ROWS]]
    if names[_MOST_ROWS:]:
        rest = [sum(_share(c[kind], name) for name in names[_MOST_ROWS:]) for c in columns.values()]
        rows.append([f"{len(names) - _MOST_ROWS} others", *map(_percent, rest)])
    return _table((f"share of the {'notes' if kind == 'notes' else 'drum notes'} by {title}", *columns), rows)


def _share(counts: Mapping[str, int], name: str) -> float:
    return counts.get(name, 0) / max(sum(counts.values()), 1)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share else ""


def _fit(cells: Records, backends: Sequence[str]) -> str:
    """How near the pieces' instruments and drums are to the songs'."""
    columns = _columns(cells, backends)
    songs, rows = columns["songs"], []
    apart = [[_distance(songs[kind], e[kind]) for e in songs["excerpts"]] for kind in ("notes", "drums")]
    for name, c in columns.items():
        known = sum(n for instrument, n in c["notes"].items() if instrument in songs["notes"])
        with_drums = sum("Drums" in instruments for instruments in c["sets"])
        rows.append(
            [
                name,
                str(c["files"]),
                f"{sum(c['notes'].values()):,}",
                f"{sum(map(len, c['sets'])) / max(len(c['sets']), 1):.1f}",
                f"{with_drums} of {c['files']}",
                f"{known / max(sum(c['notes'].values()), 1):.1%}",
                *(f"{_distance(songs[kind], c[kind]):.2f}" for kind in ("notes", "drums")),
            ]
        )
    chance = [f"{np.mean(d):.2f} ({np.quantile(d, 0.025):.2f} to {np.quantile(d, 0.975):.2f})" for d in apart]
    rows.insert(1, ["excerpts of as many songs, 200 notes each", *[""] * 5, *chance])
    head = ("", "files", "notes", "instruments a file", "with drums", "notes of the songs' instruments")
    return _table((*head, "distance of instruments", "distance of drums"), rows)


def _distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Total variation between two shares of notes: 0 for equal, 1 for nothing in common."""
    return sum(abs(_share(one, name) - _share(other, name)) for name in {*one, *other}) / 2


def _crossing(cells: Records, backends: Sequence[str]) -> str:
    rows = []
    for backend in backends:
        c = cells[f"{backend}/scores"]
        rows.append(
            [
                backend,
                *(f"{c['held_out'][b]['bits_per_note']:.4f}" for b in ("torch", "mlx")),
                *(f"{c['mean'][name]:.6f}" for name in ("torch", "mlx", "peft")),
                *(f"{c['largest'][b]:.1e}" for b in ("torch", "mlx")),
            ]
        )
    head = ("adapter of", "bits a note on torch", "on MLX", "nats on torch", "on MLX", "in vanilla PEFT")
    return _table((*head, "largest difference to PEFT, torch", "MLX"), rows)
