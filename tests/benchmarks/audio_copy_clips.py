"""Recordings for the proof of the audio copy meter, and known spans of them inserted in other recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.backends.base import Codec
from musiclora.demo.corpora import corpus_tunes, order_by_seed
from musiclora.demo.renders import EASTERN, PLUCKED, WESTERN, portions, read_songs, render_instruments
from musiclora.evaluation.copies.calibration import DEFAULT_THRESHOLD
from musiclora.evaluation.copies.index import CopyIndex
from musiclora.evaluation.copies.measure import measure_piece
from musiclora.music.wav import read_wav
from musiclora.progress import Reporter
from musiclora.symbolic.copying import notes_of
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.reading.read_folder import Song

RATE = 22050  # Hz, mono: what the meter analyses
CLIP_SECONDS = 40.0  # of a piece
SONG_SECONDS = 60.0  # of a training recording
CORPORA = {"tuning": ("aird", "northumbrian"), "test": ("ryan", "oneill")}
PROGRAMS = {**WESTERN, **EASTERN, **PLUCKED}
INSTRUMENTS = {"piano": ("piano",), "five instruments": ("piano", "steel-guitar", "violin", "flute", "accordion")}
CHANGES = ("plain", "gain", "noise", "codec", "half a semitone", "2 semitones")
_SEMITONES = {"half a semitone": 0.5, "2 semitones": 2.0}
_FADE_SECONDS = 0.02


def distinct_songs(part: str, seed: int = 0) -> list[Song]:
    """Read the tunes of a part ('tuning' or 'test') in an order by seed, no two of them near duplicates."""
    tunes = [tune for name in CORPORA[part] for tune in corpus_tunes(name)]
    songs = read_songs(order_by_seed(tunes, seed), Reporter())
    twins: dict[int, set[int]] = {}
    for i, j in near_duplicates(songs):
        twins.setdefault(j, set()).add(i)
    kept: set[int] = set()
    for i in range(len(songs)):
        if not twins.get(i, set()) & kept:
            kept.add(i)
    return [songs[i] for i in sorted(kept)]


def clips_without_variants(train: Sequence[Song], songs: Sequence[Song], seconds: float, count: int) -> list[int]:
    """List the clips, by number, whose tunes share at most 12 notes in a run with a training tune.

    Collections print one tune under several names. The copy meter for notes, which hears no sound, finds these.
    """
    index = CopyIndex([notes_of(song.name, song.score) for song in train])
    kept = []
    for number, run in enumerate(list(portions(songs, seconds))[:count]):
        found = [measure_piece(notes_of(song.name, song.score), index).content for song in run]
        kept += [number] if max(found) <= DEFAULT_THRESHOLD else []
    return kept


def render_recordings(
    songs: Sequence[Song], instruments: Sequence[str], folder: Path, seconds: float, count: int
) -> list[np.ndarray]:
    """Render recordings of other tunes each, the instruments in turn; files that exist are kept.

    Returns:
        float32 [seconds * 22050] each, in order.
    """
    import soxr

    runs = list(portions(songs, seconds))[:count]
    found = []
    for number, run in enumerate(runs):
        name = f"{number:03d}-{instruments[number % len(instruments)]}"
        program = PROGRAMS[instruments[number % len(instruments)]]
        (made,) = render_instruments(run, {name: program}, folder, seconds, Reporter(), "rendering")
        audio, rate = read_wav(made.path)
        mono = soxr.resample(audio.mean(axis=1).astype(np.float32), rate, RATE)
        wanted = round(seconds * RATE)
        found.append(np.pad(mono[:wanted], (0, max(0, wanted - len(mono)))))  # the last tune's pause is not rendered
    return found


def orchestra(folder: Path, clips: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Read real recordings: three minutes of each of 14, and clips of the others without their first ones.

    Args:
        folder: where Debian's package is unpacked, see audio_real.fetch.
        clips: most clips; at most 10 of one recording.
    """
    import soundfile
    import soxr
    from audio_real import fetch

    long, short = [], []
    for path in fetch(folder):
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(audio.mean(axis=1), rate, RATE).astype(np.float32)
        (long if len(mono) > 150 * RATE else short).append(mono)
    train, unseen = long[::2], [*long[1::2], *short]
    size = round(CLIP_SECONDS * RATE)
    cut = [song[at : at + size] for song in unseen for at in range(0, min(len(song), 10 * size) - size + 1, size)]
    return [song[: 180 * RATE] for song in train], cut[:clips]


def change_span(span: np.ndarray, change: str, rng: np.random.Generator, codec: Codec | None = None) -> np.ndarray:
    """Change a copied span, float32 [N] to float32 of about N samples."""
    if change == "gain":
        return span * np.float32(10 ** (rng.choice([-12.0, 6.0]) / 20))
    if change == "noise":  # 20 dB below the span
        level = float(np.sqrt(np.mean(np.square(span)))) * 10 ** (-20 / 20)
        return span + rng.normal(0, level, len(span)).astype(np.float32)
    if change in _SEMITONES:
        import librosa

        sign = int(rng.choice([-1, 1]))
        shifted: np.ndarray = librosa.effects.pitch_shift(span, sr=RATE, n_steps=sign * _SEMITONES[change])
        return shifted
    if change == "codec" and codec is not None:
        return through_codec(span, codec)
    return span


def through_codec(span: np.ndarray, codec: Codec) -> np.ndarray:
    """Encode and decode a span, float32 [N]."""
    import soxr

    audio = soxr.resample(span, RATE, codec.sample_rate)
    peak = float(np.abs(audio).max()) or 1.0
    whole = -(-len(audio) // codec.hop) * codec.hop
    stereo = np.zeros((1, 2, whole), np.float32)
    stereo[0, :, : len(audio)] = audio * (0.5 / peak)  # -6 dB, as recordings are encoded
    decoded = codec.decode(codec.encode(stereo)[0])[0].mean(axis=0) * (peak / 0.5)
    back: np.ndarray = soxr.resample(decoded.astype(np.float32), codec.sample_rate, RATE)
    return back[: len(span)]


def insert_span(
    host: np.ndarray,
    song: np.ndarray,
    share: float,
    change: str,
    rng: np.random.Generator,
    codec: Codec | None = None,
) -> tuple[np.ndarray, float, float]:
    """Replace a span of a clip by a changed span of a training recording, both drawn, with short cross-fades.

    Returns:
        The piece, float32 [N]; the span's first second in it, and in the recording.
    """
    length = round(share * len(host))
    begin = int(rng.integers(0, len(song) - length + 1))
    start = int(rng.integers(0, len(host) - length + 1))
    span = change_span(song[begin : begin + length], change, rng, codec)[:length]
    fade = np.ones(len(span), np.float32)
    ramp = np.linspace(0, 1, round(_FADE_SECONDS * RATE), dtype=np.float32)
    fade[: len(ramp)], fade[-len(ramp) :] = ramp, ramp[::-1]
    piece = host.copy()
    piece[start : start + len(span)] = fade * span + (1 - fade) * piece[start : start + len(span)]
    return piece, start / RATE, begin / RATE
