"""Recordings of the audio demo: medleys of melodies on one instrument each, rendered with a soundfont."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.convert.errors import OutputError
from musiclora.convert.files.temporary import scratch_folder
from musiclora.demo.corpora import CorpusTune, write_tunes
from musiclora.errors import DataError
from musiclora.music.wav import read_wav, write_wav
from musiclora.progress import Reporter
from musiclora.symbolic.reading.read_folder import Song, read_music
from musiclora.symbolic.render import find_soundfont, render_audio

if TYPE_CHECKING:
    from symusic import Score

TICKS_PER_SECOND = 960  # 480 a quarter at the default tempo of 120
PAUSE_SECONDS = 0.5  # between two tunes
CLIP_SECONDS = 128 * 2048 / 44100  # longest piece of the bundled model: 128 frames of 2048 samples

# Programs of General MIDI, counted from 0. The base was trained on the first list, its codec on the second too. The
# demo adapts it to the third, new to both: a steel-string guitar, in place of its Chinese relatives, the plucked lutes.
# It was chosen since the base's music is far from it, and the codec can play it, with every soundfont tried: no adapter
# comes nearer to a sound than the codec does.
WESTERN = {
    "piano": 0,
    "organ": 19,
    "accordion": 21,
    "guitar": 24,
    "violin": 40,
    "cello": 42,
    "trumpet": 56,
    "oboe": 68,
    "clarinet": 71,
    "flute": 73,
}
EASTERN = {"dulcimer": 15, "sitar": 104, "shamisen": 106, "koto": 107, "shakuhachi": 77}
PLUCKED = {"steel-guitar": 25}


@dataclass(frozen=True)
class Render:
    """One rendered file: its instrument, and the names of the tunes in it."""

    path: Path
    instrument: str
    tunes: tuple[str, ...]


def read_songs(tunes: Sequence[CorpusTune], reporter: Reporter) -> list[Song]:
    """Read the notes of tunes in their order, without tunes that cannot be read."""
    with scratch_folder() as scratch:
        write_tunes(tunes, scratch)
        with reporter.task("reading songs") as update:
            songs = read_music(scratch, on_progress=update).songs
    order = {tune.name: i for i, tune in enumerate(tunes)}
    return sorted(songs, key=lambda song: order[song.source.stem])


def medley(songs: Sequence[Song], program: int) -> Score:
    """Play all songs one after the other on one program, as one symusic Score."""
    from symusic import Note, Score, Track

    score, track, at = Score(480), Track(program=program), 0.0
    for song in songs:
        played = song.score.to("second")
        notes = [note for part in played.tracks if not part.is_drum for note in part.notes]
        first = min(note.time for note in notes)
        for note in notes:
            start = round((at + note.time - first) * TICKS_PER_SECOND)
            track.notes.append(Note(start, max(1, round(note.duration * TICKS_PER_SECOND)), note.pitch, note.velocity))
        at += max(note.time + note.duration for note in notes) - first + PAUSE_SECONDS
    score.tracks.append(track)
    return score


def portions(songs: Sequence[Song], seconds: float) -> Iterator[list[Song]]:
    """Yield runs of songs that last at least `seconds`, no song in two of them, without a shorter rest."""
    run: list[Song] = []
    for song in songs:
        run.append(song)
        if sum(part.seconds + PAUSE_SECONDS for part in run) >= seconds:
            yield run
            run = []


def demo_soundfont() -> Path:
    """Find the demo's soundfont: $MUSICLORA_SOUNDFONT, else that of the extra `audio`, else one of the system.

    Raises:
        DataError: there is none.
    """
    return find_soundfont(packaged_first=True)


def render_instruments(
    songs: Sequence[Song],
    instruments: dict[str, int],
    folder: Path,
    seconds: float,
    reporter: Reporter,
    title: str,
    soundfont: Path | None = None,
) -> list[Render]:
    """Render one recording an instrument, each of other songs, at 44.1 kHz in stereo; keep files that exist.

    Args:
        songs: with their scores.
        instruments: program by name.
        folder: where `<instrument>.wav` goes.
        seconds: least length of each recording.
        reporter: told what happens.
        title: of the task that is reported.
        soundfont: .sf2 file; None is `demo_soundfont`.

    Raises:
        DataError: too few songs, or nothing here can play MIDI.
    """
    runs = list(portions(songs, seconds))
    if len(runs) < len(instruments):
        raise DataError(f"{len(songs)} songs make {len(runs)} recordings of {seconds:g} s; {len(instruments)} needed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    made = []
    with reporter.task(title) as update:
        for done, ((name, program), run) in enumerate(zip(instruments.items(), runs, strict=False)):
            update(done, len(instruments))
            path = folder / f"{name}.wav"
            if not path.is_file():
                _render_medley(run, program, path, soundfont or demo_soundfont())
            made.append(Render(path, name, tuple(song.name for song in run)))
        update(len(instruments), len(instruments))
    return made


def clip_recordings(recordings: Sequence[Render], folder: Path, seconds: float = CLIP_SECONDS) -> list[Path]:
    """Cut recordings into `<folder>/<instrument>-01.wav` and so on, as long as the bundled model's music.

    A shorter rest, such as the last notes' reverberation, is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for recording in recordings:
        audio, rate = read_wav(recording.path)
        length = round(seconds * rate)
        for number in range(len(audio) // length):
            path = folder / f"{recording.instrument}-{number + 1:02d}.wav"
            write_wav(path, audio[number * length : (number + 1) * length], rate)
            made.append(path)
    return made


def _render_medley(songs: Sequence[Song], program: int, path: Path, soundfont: Path) -> None:
    with scratch_folder() as scratch:
        midi = scratch / "medley.mid"
        medley(songs, program).dump_midi(midi)
        render_audio(midi, path, soundfont)
