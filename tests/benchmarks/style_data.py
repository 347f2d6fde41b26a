"""Songs for the style table: distinct Han songs and Bach chorales from the installed music21 wheel, drawn by seed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mido
import numpy as np

from musiclora.demo.corpora import corpus_folder, corpus_tunes, write_tunes
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.reading.read_folder import read_music

TICKS = 480
VELOCITY = 80  # the same for every note: loudness says nothing about the style


def draw(corpus: str, seed: int, cache: Path, train: int, held_out: int) -> tuple[Path, Path]:
    """Folders of `train` training songs and `held_out` others, no two of all alike; made once, then found again.

    Args:
        corpus: `bach`, or a key of musiclora.demo.corpora.CORPORA.
        seed: decides which songs, together with their names.
        cache: folder for the whole corpus and the draws.
        train, held_out: how many.
    """
    folder = cache / f"{corpus}-{seed}-{train}-{held_out}"
    parts = (folder / "train", folder / "held-out")
    if not folder.exists():
        songs = sorted(distinct_songs(corpus, cache).iterdir())
        if len(songs) < train + held_out:
            raise SystemExit(f"{corpus}: {len(songs)} different songs; {train + held_out} are needed")
        order = np.random.default_rng(seed).permutation(len(songs))
        building = cache / f"building-{folder.name}"
        shutil.rmtree(building, ignore_errors=True)
        for part, chosen in zip(parts, (order[:train], order[train : train + held_out]), strict=True):
            (building / part.name).mkdir(parents=True)
            for i in chosen:
                shutil.copy(songs[i], building / part.name)
        building.rename(folder)
    return parts


def distinct_songs(corpus: str, cache: Path) -> Path:
    """Folder of the corpus's songs, no two of them alike."""
    folder = cache / corpus
    if not folder.exists():
        building = cache / f"building-{corpus}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _WRITERS.get(corpus, _write_abc)(corpus, building)
        distinct = set(_distinct(building))
        for path in set(building.iterdir()) - distinct:
            path.unlink()
        building.rename(folder)
    return folder


def _distinct(folder: Path) -> list[Path]:
    """One song of every cluster of near-duplicates, the first by name.

    Chorales are compared by their sopranos: many are one melody harmonised again.
    """
    songs = read_music(folder).songs
    twins: dict[int, set[int]] = {}
    for i, j in near_duplicates([_top_voice(song.score) for song in songs]):
        twins.setdefault(j, set()).add(i)
    kept: set[int] = set()
    for i in range(len(songs)):
        if not twins.get(i, set()) & kept:
            kept.add(i)
    return [songs[i].source for i in sorted(kept)]


def _top_voice(score: Any) -> np.ndarray:
    pitches = [np.array([note.pitch for note in sorted(track.notes, key=lambda n: n.time)]) for track in score.tracks]
    return max(pitches, key=lambda voice: float(voice.mean()) if len(voice) else 0.0)


def _write_abc(corpus: str, folder: Path) -> None:
    write_tunes(corpus_tunes(corpus), folder)


def _write_bach(corpus: str, folder: Path) -> None:
    """Every four-part chorale as MIDI, one track a voice; music21 reads them well, if slowly (a minute)."""
    from music21 import converter

    for path in sorted((corpus_folder() / corpus).glob("bwv*.mxl")):
        score = converter.parse(path, forceSource=True, storePickle=False)
        if len(score.parts) == 4:
            _to_midi(score).save(folder / f"{path.stem}.mid")


_WRITERS: dict[str, Callable[[str, Path], None]] = {"bach": _write_bach}


def _to_midi(score: Any) -> mido.MidiFile:
    from music21 import meter, stream

    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    top = score.parts[0]
    metres = [m for m in top.recurse().getElementsByClass(meter.TimeSignature)]
    bar = metres[0].barDuration.quarterLength if metres else 4.0
    first = top.getElementsByClass(stream.Measure)[0].duration.quarterLength
    gap = bar - first if 0 < first < bar else 0.0  # a pickup ends on the first bar line
    head = [mido.MetaMessage("set_tempo", tempo=600_000)]
    if metres:
        above, below = metres[0].numerator, metres[0].denominator
        head.append(mido.MetaMessage("time_signature", numerator=above, denominator=below))
    file.tracks.append(mido.MidiTrack(head))
    for channel, part in enumerate(score.parts):
        file.tracks.append(_track(part, gap, channel))
    return file


def _track(part: Any, gap: float, channel: int) -> mido.MidiTrack:
    events: list[tuple[int, int, int]] = []
    for item in part.flatten().stripTies().notes:
        start = round((item.offset + gap) * TICKS)
        end = round((item.offset + gap + item.duration.quarterLength) * TICKS)
        if end > start:  # grace notes have no duration
            events += [event for p in item.pitches for event in ((start, VELOCITY, p.midi), (end, 0, p.midi))]
    track, now = mido.MidiTrack(), 0
    for time, velocity, pitch in sorted(events):  # ends come before starts at the same time
        track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=velocity, time=time - now))
        now = time
    return track
