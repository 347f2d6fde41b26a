"""Audio demo, offline: the bundled audio model adapted to Han melodies on an instrument that is new to it."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import time
from pathlib import Path

from musiclora.audio.copying import measure_audio_copies
from musiclora.audio.diffrhythm.generate import generate_recordings
from musiclora.audio.diffrhythm.learning import load_diffrhythm_task
from musiclora.audio.diffrhythm.preprocess import preprocess_recordings
from musiclora.audio.diffrhythm.sampling import FlowRequest
from musiclora.audio.files.cutting import CutOptions, cut_folder
from musiclora.audio.files.sound import file_checksum
from musiclora.backends.registry import choose
from musiclora.convert.errors import OutputError
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.files.outputs import check_folder
from musiclora.demo.audio_report import write_audio_report
from musiclora.demo.audio_result import AudioDemoOptions, AudioDemoResult
from musiclora.demo.corpora import ESSEN_TERMS, corpus_folder, han_folk_songs, order_by_seed
from musiclora.demo.demo_run import DATA_RECORD, check_demo_folder, train_demo
from musiclora.demo.renders import PLUCKED, clip_recordings, demo_soundfont, read_songs, render_instruments
from musiclora.errors import ConfigError
from musiclora.evaluation.artefacts.compare import BASELINE, GENERATED, REFERENCE, compare_artefacts
from musiclora.evaluation.audio_distances import compare_recordings, distance_reductions
from musiclora.evaluation.audio_features import Recordings
from musiclora.evaluation.kernel_distance import compare_kernels
from musiclora.evaluation.measure import measure_recordings, need_audio, recording_files, split_base_versions
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.result import TrainResult

RENDERED_SONGS = "Chinese (Han) folk songs, Essen collection, from the installed music21 wheel, rendered here"
READ_TUNES = 70  # fewer are rendered
_DATA_FOLDERS = ("recordings", "held-out", "held-out-whole", "cut", "latents")
HELD_OUT_SHARE = 0.25  # of the recordings to train on: six of 24, which a verdict needs
SEGMENT_SECONDS = 10.0  # length of the pieces that the recordings are cut into


def audio_next_commands(result: AudioDemoResult) -> list[str]:
    """List commands to run next."""
    return [
        f"musiclora generate --adapter-dir {result.adapter} --output new.wav --seed 1 --compare",
        f"musiclora evaluate --generated-dir {result.folder / 'music'} --reference-dir {result.folder / 'held-out'}",
        "musiclora train --model YOUR_DIFFRHYTHM --data-dir YOUR_RECORDINGS --output-dir runs/mine",
    ]


def clear_other_data(folder: Path, soundfont: Path, o: AudioDemoOptions) -> None:
    """Remove renders and latents that an earlier demo made in another way, and note how these are made.

    Raises:
        OutputError: there is such a folder without a note by the demo, or the folder cannot be written.
    """
    settings = {
        "soundfont": soundfont.name,
        "sha256": file_checksum(soundfont),
        "instruments": PLUCKED,
        **{key: getattr(o, key) for key in ("seed", "takes", "train_seconds", "held_seconds", "loudness")},
    }
    record, made = folder / DATA_RECORD, [folder / name for name in _DATA_FOLDERS if (folder / name).exists()]
    earlier = read_optional_json(record) if record.is_file() else {}
    if earlier == settings:
        return
    if made and not settings.keys() & earlier.keys():
        raise OutputError(f"--output-dir {folder}: holds {made[0].name} of unknown making; choose a new folder")
    for path in made:
        shutil.rmtree(path)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


def render_data(folder: Path, o: AudioDemoOptions, out: Reporter, soundfont: Path | None = None) -> list[Path]:
    """Render Han melodies into `<folder>/recordings`, and other ones, cut, into `<folder>/held-out`.

    Returns:
        The files of held-out music.

    Raises:
        DataError: music21 is missing, or nothing here can play MIDI.
    """
    songs = read_songs(order_by_seed(han_folk_songs(), o.seed)[:READ_TUNES], out)
    font = soundfont or demo_soundfont()
    several = {f"{name}-{i}": program for i in range(1, o.takes + 1) for name, program in PLUCKED.items()}
    made = render_instruments(
        songs, several, folder / "recordings", o.train_seconds, out, "rendering to train on", font
    )
    used = {tune for recording in made for tune in recording.tunes}
    rest = [song for song in songs if song.name not in used]
    whole = folder / "held-out-whole"
    held = render_instruments(rest, PLUCKED, whole, o.held_seconds, out, "rendering held-out tunes", font)
    return clip_recordings(held, folder / "held-out")


def audio_demo(
    folder: Path,
    backend: str = "auto",
    options: AudioDemoOptions | None = None,
    reporter: Reporter | None = None,
    data_dir: Path | None = None,
) -> AudioDemoResult:
    """Render, adapt, generate, compare and report into a folder.

    Args:
        folder: where everything goes; an unfinished training in it is resumed.
        backend: `auto`, `mlx` or `torch`.
        options: see AudioDemoOptions.
        reporter: told what happens.
        data_dir: own recordings are refused for now.

    Raises:
        ConfigError: `data_dir` is given.
        MusicLoraError: a backend, the music21 wheel, a synthesiser or the bundled model is missing, or the folder
            cannot be written.
    """
    started = time.monotonic()
    o, out = options or AudioDemoOptions(), reporter or Reporter()
    if data_dir:
        raise ConfigError(
            f"{data_dir}: holds recordings, and the demo adapts to own songs in MIDI or ABC only; for recordings: "
            f"musiclora train --model bundled-audio --data-dir {shlex.quote(str(data_dir))} --output-dir runs/mine"
        )
    check_demo_folder(folder)
    need_audio()
    name = choose(backend)
    find_model("bundled-audio")
    corpus_folder()  # before anything is written
    out.say(f"songs: {RENDERED_SONGS}")
    out.say(f"terms: {ESSEN_TERMS}")
    soundfont = demo_soundfont()
    out.say(f"soundfont: {soundfont}")
    clear_other_data(folder, soundfont, o)
    held_out = render_data(folder, o, out, soundfont)
    training = train_on_recordings(folder, name, o, out)
    request = FlowRequest(seed=o.seed, count=o.pieces, steps=o.grid, guidance=o.guidance)
    adapter = str(training.run_dir / "adapter-best")
    generated = generate_recordings(
        folder / "music" / "clip.wav",
        request,
        adapters=[adapter],
        backend=name,
        compare=True,
        overwrite=True,
        reporter=out,
    )
    for text in generated.notes:
        out.say(text)
    made, bases = split_base_versions(recording_files(folder / "music"))
    sets: dict[str, Recordings] = {}
    for title, files in (("the base", bases), ("the adapted model", made), ("held-out renders", held_out)):
        with out.task(f"listening to {title}") as update:
            sets[title] = measure_recordings(files, update)
    base, adapted, reference = sets.values()
    copies = measure_audio_copies(folder / "music", folder / "recordings", folder / "held-out", reporter=out)
    result = AudioDemoResult(
        folder=folder,
        training=training,
        base=compare_recordings(base, reference, o.seed),
        adapted=compare_recordings(adapted, reference, o.seed),
        nearer=distance_reductions(base, adapted, reference, o.seed, matched=True),
        pairs=list(zip(bases, made, strict=True)),
        held_out=held_out,
        soundfont=soundfont,
        kernels=(
            compare_kernels(base, reference, o.seed),
            compare_kernels(adapted, reference, o.seed, baseline=base, matched=True),
        ),
        artefacts=compare_artefacts(
            {GENERATED: adapted.artefacts, REFERENCE: reference.artefacts, BASELINE: base.artefacts}
        ),
        copies=copies,
        seconds=time.monotonic() - started,
    )
    write_audio_report(result, o, audio_next_commands(result), [f"Songs: {RENDERED_SONGS}. Terms: {ESSEN_TERMS}."])
    return result


def train_on_recordings(folder: Path, backend: str, o: AudioDemoOptions, out: Reporter) -> TrainResult:
    """Cut and encode the recordings, and train the adapter in `<folder>/run`."""
    pieces = folder / "cut"
    if not pieces.exists():
        options = CutOptions(seconds=SEGMENT_SECONDS, leftover="merge", loudness=o.loudness)
        cut_folder(folder / "recordings", pieces, options, reporter=out)
    preprocess_recordings(pieces, folder / "latents", "bundled-audio", out, backend=backend)
    config = dataclasses.replace(
        o.train_config(str(folder / "latents"), folder / "run", "bundled-audio", backend),
        val_split=HELD_OUT_SHARE,
        grad_checkpointing=False,
    )
    return train_demo(config, load_diffrhythm_task(config, out, backend), o, out)
