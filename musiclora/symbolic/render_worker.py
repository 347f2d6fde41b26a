"""Child process that parses music files and synthesises sound: `python -m musiclora.symbolic.render_worker JOB.json`.

Third-party parsers and synthesisers may crash or hang on unusual input. Here they end only their own process.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.wav import read_wav, write_wav

if TYPE_CHECKING:
    from symusic import Score, Track

RENDER_RATE_HZ = 44100
LONGEST_GAP_SECONDS = 3.0  # longest silence that is kept
FADE_SECONDS = 2.0  # time for the last notes to fade
LONGEST_NOTE_SECONDS = 30.0
RENDER_PEAK = 0.89  # -1 dB of full scale
_TICKS_PER_SECOND = 960  # 480 a quarter at 120 quarters a minute
_KEPT_CONTROLS = (7, 10, 11, 64)  # volume, pan, expression, sustain pedal
_EXIT_FAILED = 3


def sanitise_midi(score: Score, max_seconds: float) -> bytes:
    """Build MIDI bytes for a synthesiser: drop invalid values, shorten long silences, cap the length.

    Args:
        score: score with times in seconds.
        max_seconds: length of the result.

    Raises:
        ValueError: no note is left.
    """
    from symusic import ControlChange, Note, Score, Tempo, Track

    notes = [(t, n) for t in score.tracks for n in t.notes if np.isfinite(n.time + n.duration) and n.velocity > 0]
    if not notes:
        raise ValueError("it has no notes")
    starts = np.array([max(0.0, n.time) for _, n in notes])
    ends = starts + np.clip([n.duration for _, n in notes], 0.02, LONGEST_NOTE_SECONDS)
    knots, moved = _close_gaps(starts, ends)
    clean = Score(480)
    clean.tempos.append(Tempo(0, 120.0))
    tracks: dict[tuple[int, bool], Track] = {}

    def ticks(seconds: float) -> int:
        return round(float(np.interp(seconds, knots, moved)) * _TICKS_PER_SECOND)

    def key_of(track: Track) -> tuple[int, bool]:
        return 0 if track.is_drum else int(track.program) % 128, bool(track.is_drum)

    def track_of(track: Track) -> Track:
        program, is_drum = key_of(track)
        return tracks.setdefault((program, is_drum), Track(program=program, is_drum=is_drum))

    for (track, note), start, end in zip(notes, starts, ends, strict=True):
        first = ticks(start)
        if first < max_seconds * _TICKS_PER_SECOND and 0 <= note.pitch <= 127:
            length = max(10, min(ticks(end), round(max_seconds * _TICKS_PER_SECOND)) - first)
            track_of(track).notes.append(Note(first, length, int(note.pitch), min(127, int(note.velocity))))
    for track in score.tracks:
        key = key_of(track)
        for control in track.controls if key in tracks else ():
            if control.number in _KEPT_CONTROLS and 0 <= control.value <= 127 and np.isfinite(control.time):
                tick = min(ticks(max(0.0, control.time)), round(max_seconds * _TICKS_PER_SECOND))
                tracks[key].controls.append(ControlChange(tick, control.number, control.value))
    if not tracks:
        raise ValueError("it has no notes in its first minutes")
    clean.tracks = list(tracks.values())
    # the synthesiser stops at the last event: a silent one leaves time to fade
    clean.tracks[0].controls.append(ControlChange(clean.end() + round(FADE_SECONDS * _TICKS_PER_SECOND), 64, 0))
    return bytes(clean.dumps_midi())


def _close_gaps(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map times piecewise linearly, so that no silence exceeds LONGEST_GAP_SECONDS: old and new knots."""
    order = np.argsort(starts)
    sounding = np.maximum.accumulate(ends[order])
    silence_from = np.append(0.0, sounding)
    silence_to = np.append(starts[order], sounding[-1])
    excess = np.maximum(0.0, silence_to - silence_from - LONGEST_GAP_SECONDS)
    knots, moved, lost = [0.0], [0.0], 0.0
    for i in np.flatnonzero(excess):
        knots += [silence_from[i] + LONGEST_GAP_SECONDS, silence_to[i]]
        moved += [silence_from[i] + LONGEST_GAP_SECONDS - lost, silence_to[i] - lost - excess[i]]
        lost += excess[i]
    last = float(sounding[-1]) + FADE_SECONDS
    return np.array([*knots, last]), np.array([*moved, last - lost])


def resample_sinc(audio: np.ndarray, rate: int, wanted: int = RENDER_RATE_HZ, taps: int = 48) -> np.ndarray:
    """Resample float32 [N, channels] by a sinc with a Kaiser window (polyphase filter).

    Each block of `down` input frames gives `up` output frames (160 and 147 from 48 kHz), by one matrix product.

    Args:
        audio: float32 [N, channels].
        rate: sample rate of audio in Hz.
        wanted: sample rate of the result in Hz.
        taps: length of the filter in input frames.
    """
    if rate == wanted or not len(audio):
        return audio
    common = int(np.gcd(rate, wanted))
    up, down = wanted // common, rate // common
    blocks = -(-len(audio) // down)
    width = down + taps
    distance = np.arange(width)[:, None] - taps // 2 - np.arange(up)[None, :] * down / up
    cutoff = 0.95 * min(1.0, wanted / rate)
    window = np.i0(8.0 * np.sqrt(np.clip(1 - (2 * distance / taps) ** 2, 0, None))) / np.i0(8.0)
    kernel = np.where(np.abs(distance) <= taps / 2, cutoff * np.sinc(cutoff * distance) * window, 0).astype(np.float32)
    out = np.empty((blocks * up, audio.shape[1]), np.float32)
    for channel in range(audio.shape[1]):
        padded = np.pad(audio[:, channel], (taps // 2, blocks * down - len(audio) + taps))
        frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::down][:blocks]
        out[:, channel] = (np.ascontiguousarray(frames) @ kernel).ravel()
    return out[: -(-len(audio) * up // down)]


def _play_by_midirenderer(soundfont: Path, midi: bytes) -> tuple[np.ndarray, int]:
    import midirenderer

    return read_wav(io.BytesIO(midirenderer.render_wave_from(soundfont.read_bytes(), midi)))


def _play_by_fluidsynth(soundfont: Path, midi: bytes) -> tuple[np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mid", Path(folder) / "out.wav"
        source.write_bytes(midi)
        options = [
            "-n",
            "-i",
            "-q",
            "-g",
            "0.5",
            "-r",
            str(RENDER_RATE_HZ),
            "-O",
            "s16",
            "-T",
            "wav",
            "-F",
            str(target),
        ]
        command = ["fluidsynth", *options, str(soundfont), str(source)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        return read_wav(target)


def scale_to_peak(audio: np.ndarray) -> np.ndarray:
    """Scale to a peak of RENDER_PEAK; silence stays silence."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio * np.float32(RENDER_PEAK / peak) if peak > 1e-6 else audio


def _parse_file(path: Path) -> Score:
    """Parse the first score of a MIDI or ABC file, by the readers that training uses.

    Raises:
        ValueError: the file holds no tune.
    """
    from musiclora.symbolic.formats.abc import decode_text, parse_tune, split_tunes
    from musiclora.symbolic.formats.midi import parse_midi

    data = path.read_bytes()
    if path.suffix.lower() != ".abc":
        return parse_midi(data)[0].score
    tunes = split_tunes(decode_text(data))
    if not tunes:
        raise ValueError("it holds no tune")
    return parse_tune(tunes[0])


def _run_job(job: dict[str, Any]) -> None:
    """Write a repaired MIDI file, or sound, as the job says."""
    score = _parse_file(Path(job["source"]))
    if "midi" in job:
        from musiclora.symbolic.formats.sanitise import sanitise_score

        Path(job["midi"]).write_bytes(sanitise_score(score).score.dumps_midi())
        return
    midi = sanitise_midi(score.to("second"), job["max_seconds"])
    engine = {"midirenderer": _play_by_midirenderer, "fluidsynth": _play_by_fluidsynth}[job["engine"]]
    audio, rate = engine(Path(job["soundfont"]), midi)
    if audio.shape[1] == 1:
        audio = np.repeat(audio, 2, axis=1)
    write_wav(Path(job["wav"]), scale_to_peak(resample_sinc(audio, rate)), RENDER_RATE_HZ)


if __name__ == "__main__":
    try:
        _run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # third-party parsers raise nearly anything; the parent shows one line
        sys.stderr.write(f"{str(error) or type(error).__name__}\n")
        sys.exit(_EXIT_FAILED)
