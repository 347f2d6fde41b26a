"""The audio demo, offline: the bundled audio model adapted to Han melodies on instruments that are new to it."""

from __future__ import annotations

from pathlib import Path

from musiclora.audio.files.cutting import CutOptions, cut_folder
from musiclora.audio.generate import generate_recordings
from musiclora.audio.preprocess import preprocess_recordings
from musiclora.audio.sampling import FlowRequest
from musiclora.backends.registry import choose
from musiclora.demo.audio_result import AudioDemoOptions, AudioDemoResult
from musiclora.demo.budget import BudgetSession, is_another_demo
from musiclora.demo.corpora import ESSEN_TERMS, han_folk_songs, order_by_seed
from musiclora.demo.renders import REED, clip_recordings, read_songs, render_instruments
from musiclora.evaluation.audio_distances import compare_recordings, distance_reductions
from musiclora.evaluation.audio_features import Recordings
from musiclora.evaluation.measure import measure_recordings, need_audio, recording_files, split_base_versions
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.result import TrainResult

RENDERED_SONGS = "Chinese (Han) folk songs, Essen collection, from the installed music21 wheel, rendered here"
TUNES = 70  # read; fewer are rendered
SEGMENT = 10.0  # seconds that the recordings are cut into


def audio_next_commands(result: AudioDemoResult) -> list[str]:
    """What to run next."""
    adapter = result.folder / "run" / "adapter-best"
    return [
        f"musiclora generate --adapter-dir {adapter} --output new.wav --seed 1 --compare",
        f"musiclora evaluate --generated-dir {result.folder / 'music'} --reference-dir {result.folder / 'held-out'}",
        "musiclora train --model YOUR_DIFFRHYTHM --data-dir YOUR_RECORDINGS --output-dir runs/mine",
    ]


def render_data(folder: Path, o: AudioDemoOptions, out: Reporter) -> list[Path]:
    """Render Han melodies into `<folder>/recordings` and others, cut, into `<folder>/held-out`; return the latter.

    Raises:
        DataError: music21 is missing, or nothing here can play MIDI.
    """
    songs = read_songs(order_by_seed(han_folk_songs(), o.seed)[:TUNES], out)
    several = {f"{name}-{i}": program for i in range(1, o.takes + 1) for name, program in REED.items()}
    made = render_instruments(songs, several, folder / "recordings", o.train_seconds, out, "rendering to train on")
    used = {tune for recording in made for tune in recording.tunes}
    rest = [song for song in songs if song.name not in used]
    held = render_instruments(rest, REED, folder / "held-out-whole", o.held_seconds, out, "rendering held-out tunes")
    return clip_recordings(held, folder / "held-out")


def audio_demo(
    folder: Path, backend: str = "auto", options: AudioDemoOptions | None = None, reporter: Reporter | None = None
) -> AudioDemoResult:
    """Render, adapt, generate, compare and report into a folder.

    Args:
        folder: where everything goes; an unfinished training in it is resumed.
        backend: `auto`, `mlx` or `torch`.
        options: see AudioDemoOptions.
        reporter: told what happens.

    Raises:
        MusicLoraError: a backend, the music21 wheel, a synthesiser or the bundled model is missing, or the folder
            cannot be written.
    """
    import time

    from musiclora.demo.audio_report import write_audio_report

    started = time.monotonic()
    o, out = options or AudioDemoOptions(), reporter or Reporter()
    need_audio()
    name = choose(backend)
    find_model("bundled-audio")
    out.say(f"songs: {RENDERED_SONGS}")
    out.say(f"terms: {ESSEN_TERMS}")
    held_out = render_data(folder, o, out)
    training = adapt(folder, name, o, out)
    request = FlowRequest(seed=o.seed, count=o.pieces, steps=o.grid, guidance=o.guidance)
    adapter = str(training.run_dir / "adapter-best")
    generate_recordings(
        folder / "music" / "clip.wav", request, adapters=[adapter], backend=name, compare=True, reporter=out
    )
    made, bases = split_base_versions(recording_files(folder / "music"))
    sets: dict[str, Recordings] = {}
    for what, files in (("the base", bases), ("the adapted model", made), ("held-out renders", held_out)):
        with out.task(f"listening to {what}") as update:
            sets[what] = measure_recordings(files, update)
    base, adapted, reference = sets.values()
    result = AudioDemoResult(
        folder,
        training,
        compare_recordings(base, reference, o.seed),
        compare_recordings(adapted, reference, o.seed),
        distance_reductions(base, adapted, reference, o.seed, matched=True),
        list(zip(bases, made, strict=True)),
        held_out,
        time.monotonic() - started,
    )
    write_audio_report(result, o, audio_next_commands(result), [f"Songs: {RENDERED_SONGS}. Terms: {ESSEN_TERMS}."])
    return result


def adapt(folder: Path, backend: str, o: AudioDemoOptions, out: Reporter) -> TrainResult:
    """Cut and encode the recordings, and train the adapter in `<folder>/run`."""
    pieces = folder / "cut"
    if not pieces.exists():
        cut_folder(folder / "recordings", pieces, CutOptions(seconds=SEGMENT, leftover="merge"), reporter=out)
    preprocess_recordings(pieces, folder / "latents", "bundled-audio", out, backend=backend)
    config = TrainConfig(
        data_dir=str(folder / "latents"),
        output_dir=str(folder / "run"),
        model="bundled-audio",
        backend=backend,
        seed=o.seed,
        lr=o.lr,
        lora_r=o.rank,
        lora_alpha=o.alpha,
        lora_dropout=o.dropout,
        batch_size=o.rows,
        grad_accum_steps=1,
        max_steps=o.steps,
        patience=1000,
        val_split=0.2,
        grad_checkpointing=False,
    )
    session = BudgetSession(config, o.seconds, out)
    return session.train(restart=is_another_demo(session.run, session.config))
