"""Handlers of the child process that synthesises sound, or reads one song to draw; see `children.serve`.

Third-party parsers and synthesisers may crash or hang on unusual input. There they end only their own process.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConfigError, DataError
from musiclora.music.wav import read_wav, write_wav
from musiclora.symbolic.formats.score_arrays import pack_score
from musiclora.symbolic.rendering.missing import SILENT_PEAK, missing_remarks
from musiclora.symbolic.rendering.part_choice import Choice, choose_parts, list_song_parts, midi_file, select_messages
from musiclora.symbolic.rendering.parts import Arrangement, Part, arrange_parts, pass_midi, scale_volume, split_passes
from musiclora.symbolic.rendering.reading import SongEvents, read_heard_score, read_song_events, read_song_score

RENDER_RATE_HZ = 44100
RENDER_PEAK = 0.89  # -1 dB of full scale
_CLIPPED_PEAK = 32766 / 32768  # of 16 bits
_MOST_HALVINGS = 3  # of volumes, 36 dB


class _SoundfontError(DataError):
    """The soundfont cannot be played, whatever the song is."""


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
        source, target = Path(folder) / "in.mid", Path(folder) / "out.raw"
        source.write_bytes(midi)
        options = ["-n", "-i", "-q", "-g", "0.5", "-r", str(RENDER_RATE_HZ), "-O", "float", "-T", "raw"]
        # in place of a font that it cannot load it would take its default one, and say nothing
        options += ["-o", "synth.default-soundfont=", "-F", str(target)]
        command = ["fluidsynth", *options, str(soundfont), str(source)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        return np.fromfile(target, "<f4").reshape(-1, 2), RENDER_RATE_HZ


_ENGINES: dict[str, Callable[[Path, bytes], tuple[np.ndarray, int]]] = {
    "midirenderer": _play_by_midirenderer,
    "fluidsynth": _play_by_fluidsynth,
}


def scale_to_peak(audio: np.ndarray) -> np.ndarray:
    """Scale to a peak of RENDER_PEAK; silence stays silence."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio * np.float32(RENDER_PEAK / peak) if peak > SILENT_PEAK else audio


def play_song(arranged: Arrangement, engine: str, soundfont: Path) -> np.ndarray:
    """Play all parts, as many at a time as a synthesiser has channels, and mix the passes, float32 [N, 2].

    Raises:
        DataError: the soundfont is damaged, or the song makes no sound.
    """
    mixed = np.zeros((0, 2), np.float32)
    for parts in split_passes(arranged.parts):
        audio = _play_unclipped(engine, soundfont, parts, arranged.end)
        if len(audio) > len(mixed):
            audio, mixed = mixed, audio
        mixed[: len(audio)] += audio
    if np.abs(mixed).max(initial=0.0) < SILENT_PEAK:
        check_soundfont(engine, soundfont)
        raise DataError("it makes no sound: its notes are too soft, or the soundfont lacks its instruments")
    return scale_to_peak(mixed)


def _play_unclipped(engine: str, soundfont: Path, parts: Sequence[Part], end: int) -> np.ndarray:
    """Play one pass, again with lower volumes as long as 16 bits clip it; the level is that of full volumes."""
    for halvings in range(_MOST_HALVINGS + 1):
        audio, rate = _play(engine, soundfont, pass_midi([scale_volume(p, 0.5**halvings) for p in parts], end))
        if engine == "fluidsynth" or np.abs(audio).max(initial=0.0) < _CLIPPED_PEAK:  # it gives floating point
            break
    if audio.shape[1] == 1:
        audio = np.repeat(audio, 2, axis=1)
    # a synthesiser's gain is the square of the volume
    return np.array(resample_sinc(audio, rate) * np.float32(4.0**halvings), np.float32)


def _play(engine: str, soundfont: Path, midi: bytes) -> tuple[np.ndarray, int]:
    try:
        return _ENGINES[engine](soundfont, midi)
    except Exception:  # the synthesisers raise nearly anything
        check_soundfont(engine, soundfont)
        raise


def check_soundfont(engine: str, soundfont: Path) -> None:
    """Play one note on each of three programs, to tell a bad soundfont from a bad song.

    Raises:
        DataError: nothing is to be heard.
    """
    notes = [(0x90, 60), (0x91, 60), (0x92, 60)]
    events = b"\x00\xc1\x28\x00\xc2\x49" + b"".join(bytes((0, status, pitch, 127)) for status, pitch in notes)
    ends = b"".join(bytes((0x87, 0x40, status, pitch, 0)) for status, pitch in notes)
    body = events + ends + b"\x00\xff\x2f\x00"
    midi = b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0MTrk" + len(body).to_bytes(4, "big") + body
    try:
        audio, _ = _ENGINES[engine](soundfont, midi)
        reason = "" if np.abs(audio).max(initial=0.0) > SILENT_PEAK else "it makes no sound"
    except Exception as error:
        reason = " ".join(str(error).split())[:160] if engine == "midirenderer" else "it cannot be loaded"
    if reason:
        raise _SoundfontError(f"not a usable .sf2 soundfont ({reason})")


def _render_sound(task: dict[str, Any]) -> dict[str, Any]:
    song = read_song_events(Path(task["source"]))
    select = _choose(song, task).keep_heard if _is_chosen(task) else None
    arranged = arrange_parts(song.tracks, song.division, float(task["max_seconds"]), song.use_tempos, select)
    engine, soundfont = task["engine"], Path(task["soundfont"])
    audio = play_song(arranged, engine, soundfont)
    missing = missing_remarks(arranged.parts, arranged.end, soundfont, lambda midi: _play(engine, soundfont, midi))
    buffer = io.BytesIO()
    write_wav(buffer, audio, RENDER_RATE_HZ)
    return {
        "wav": np.frombuffer(buffer.getvalue(), np.uint8),
        "seconds": len(audio) / RENDER_RATE_HZ,
        "parts": len(arranged.parts),
        "remarks": [*song.remarks, *arranged.remarks, *missing],
    }


def _write_midi(task: dict[str, Any]) -> dict[str, Any]:
    """Build a MIDI file of the parts that are heard, with everything else as it is."""
    song = read_song_events(Path(task["source"]))
    choice = _choose(song, task)
    data = midi_file(select_messages(song.raw, choice), song.time_division)
    return {"midi": np.frombuffer(data, np.uint8), "parts": len(choice.heard_parts()), "remarks": song.remarks}


def _read_score(task: dict[str, Any]) -> dict[str, Any]:
    path = Path(task["source"])
    if _is_chosen(task):
        song = read_song_events(path)
        score, remarks = read_heard_score(song, _choose(song, task))
    else:
        score, remarks = read_song_score(path)
    return {"score": pack_score(score), "remarks": remarks}


def _is_chosen(task: dict[str, Any]) -> bool:
    return task.get("solo") is not None or task.get("mute") is not None


def _choose(song: SongEvents, task: dict[str, Any]) -> Choice:
    """Choose the parts that `solo` and `mute` of a task ask for.

    Raises:
        ConfigError: they name what the song has not.
        DataError: it has no notes.
    """
    parts = list_song_parts(song.tracks, song.raw, song.division)
    if not parts:
        raise DataError("it has no notes")
    return choose_parts(parts, task.get("solo"), task.get("mute"))


def render_worker(settings: object) -> Callable[[dict[str, Any]], object]:
    """Build the handler of tasks.

    A task has `source`, a `kind` (`sound`, `midi` or `score`), for sound also `engine`, `soundfont` and `max_seconds`,
    and `solo` and `mute`, which may be None.
    """
    handlers = {"sound": _render_sound, "midi": _write_midi, "score": _read_score}

    def answer(task: dict[str, Any]) -> dict[str, Any]:
        try:
            return handlers[task["kind"]](task)
        except ConfigError as error:
            return {"error": str(error), "option": True}
        except Exception as error:  # third-party parsers raise nearly anything; the parent shows one line
            text = " ".join(str(error).split())[:200] or type(error).__name__
            known = isinstance(error, DataError)
            return {
                "error": text if known else f"unreadable: {type(error).__name__}",
                "soundfont": isinstance(error, _SoundfontError),
            }

    return answer
