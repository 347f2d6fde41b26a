"""MIDI file with messages of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mido
import numpy as np

FULL_SONG = """
0 set_tempo tempo=400000 | 0 time_signature numerator=3 denominator=4 | 0 key_signature key=Eb
0 marker text=Verse | 960 lyrics text=la | 1500 set_tempo tempo=700000 | 1920 time_signature numerator=6 denominator=8
"""


def write_song(path: Path, seed: int = 0, form: int = 1, programs=(0, 33, 73, 33), drums: bool = True) -> Path:
    """Write a song with settings of every kind between its notes, a channel for each program."""
    rng = np.random.default_rng(seed)
    head: list[tuple[int, Any]] = []
    for entry in FULL_SONG.strip().replace("\n", " | ").split(" | "):
        tick, kind, *values = entry.split()
        pairs = [value.split("=") for value in values]
        fields: dict[str, Any] = {name: int(value) if value.isdigit() else value for name, value in pairs}
        head.append((int(tick), mido.MetaMessage(kind, **fields)))
    tracks = [head]
    channels = [c for c in range(16) if c != 9][: len(programs)] + [9] * drums
    for number, channel in enumerate(channels):
        events = [(0, mido.MetaMessage("track_name", name=f"part {number}"))] if form else []
        if channel != 9:
            events.append((0, mido.Message("program_change", channel=channel, program=programs[number])))
        events.append((0, mido.Message("control_change", channel=channel, control=7, value=90 + number)))
        for tick in sorted(rng.integers(0, 4000, 30).tolist()):
            action = rng.integers(0, 6)
            pitch = int(rng.integers(40, 50))
            if action < 3:
                length, velocity = int(rng.integers(1, 600)), int(rng.integers(1, 128))
                events.append((tick, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)))
                off = mido.Message("note_off", channel=channel, note=pitch, velocity=40)
                silent = mido.Message("note_on", channel=channel, note=pitch, velocity=0)
                events.append((tick + length, off if rng.random() < 0.5 else silent))
            elif action == 3:
                events.append((tick, mido.Message("polytouch", channel=channel, note=pitch, value=3)))
            elif action == 4:
                events.append((tick, mido.Message("pitchwheel", channel=channel, pitch=int(rng.integers(-99, 99)))))
            else:
                events.append((tick, mido.Message("sysex", data=(1, 2, number))))
        events.append((rng.integers(0, 4000), mido.Message("aftertouch", channel=channel, value=5)))
        events.append((rng.integers(0, 4000), mido.MetaMessage("lyrics", text=f"word {number}")))
        tracks.append(events)
    if form == 0:
        tracks = [[event for track in tracks for event in track]]
    file = mido.MidiFile(type=form, ticks_per_beat=480)
    for events in tracks:
        track = mido.MidiTrack()
        now = 0
        for tick, message in sorted(events, key=lambda event: event[0]):
            track.append(message.copy(time=int(tick) - now))
            now = int(tick)
        file.tracks.append(track)
    file.save(path)
    return path
