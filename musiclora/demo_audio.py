"""The audio demo, offline: the bundled audio model adapted to Han melodies on instruments that are new to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musiclora.audio_distances import Distances, Spread, distances, reductions
from musiclora.audio_features import Recordings
from musiclora.audio_making import FlowRequest, make_audio
from musiclora.audio_measuring import apart, measure, need_audio, recording_files
from musiclora.audio_preparing import preprocess
from musiclora.backends.registry import choose
from musiclora.config import TrainConfig
from musiclora.data.corpora import ESSEN_TERMS, han_folk_songs, order_by_seed
from musiclora.data.cutting import CutOptions, cut_folder
from musiclora.demo_renders import REED, clip_recordings, read_songs, render_instruments
from musiclora.demo_session import BudgetSession, is_another_demo
from musiclora.models import find_model
from musiclora.results import Reporter, TrainResult

DATA = "Chinese (Han) folk songs, Essen collection, from the installed music21 wheel, rendered here"
TUNES = 70  # read; fewer are rendered
SEGMENT = 10.0  # seconds that the recordings are cut into


@dataclass(frozen=True)
class AudioDemoOptions:
    """What the audio demo does; its defaults take about three minutes on two cores.

    Attributes:
        steps: optimiser steps; fewer where they would not fit into `seconds`.
        rows: windows of six seconds in a step.
        lr, rank, alpha, dropout: of the adapter.
        seconds: longest training.
        takes, train_seconds: recordings to train on, and the least length of each.
        held_seconds: least length of the recording to compare with.
        pieces: how many are generated, each by the base and by the adapted model.
        grid: points of the time axis in generation.
        guidance: strength of the style.
        seed: of everything drawn.
    """

    steps: int = 150
    rows: int = 6
    lr: float = 1e-3
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    seconds: float = 100.0
    takes: int = 15
    train_seconds: float = 20.0
    held_seconds: float = 180.0
    pieces: int = 16
    grid: int = 24
    guidance: float = 2.0
    seed: int = 7


Options = AudioDemoOptions  # the name under which every family's demo has its settings


@dataclass(frozen=True)
class AudioDemoResult:
    """What the audio demo achieved.

    Attributes:
        folder: everything it wrote.
        training: the run.
        base, adapted: distances of their music to renders of tunes that nothing was trained or chosen by.
        nearer: by what share the adapted music is nearer, both distances.
        pairs: files by base and adapted model from the same noise.
        held_out: the renders compared with.
        seconds: all in all.
    """

    folder: Path
    training: TrainResult
    base: Distances
    adapted: Distances
    nearer: tuple[Spread, Spread]
    pairs: list[tuple[Path, Path]]
    held_out: list[Path]
    seconds: float

    def lines(self) -> list[str]:
        """The result in words."""
        rows = (
            ("Audio Feature Distance", self.base.afd, self.adapted.afd, self.base.real_afd, self.nearer[0], ".3g"),
            (
                "Spectral Distance, dB²",
                self.base.spectral,
                self.adapted.spectral,
                self.base.real_spectral,
                self.nearer[1],
                ".1f",
            ),
        )
        return [
            *self.training.lines(),
            f"{self.base.generated} clips each, against {self.base.reference} clips of tunes that nothing was trained "
            "or chosen by; smaller is nearer:",
            *(
                f"{name}: {base.value:{form}} by the base, {adapted.value:{form}} adapted ({share.value:.0%} nearer, "
                f"95 % over clips {share.low:.0%} to {share.high:.0%}); real against real {real.value:{form}}"
                for name, base, adapted, real, share, form in rows
            ),
            f"everything is in {self.folder}, open {self.folder / 'report.html'} ({self.seconds:.0f} s in all)",
        ]

    def record(self) -> dict[str, Any]:
        """For --json."""
        return {
            "folder": self.folder,
            "backend": self.training.backend,
            "base": asdict(self.base),
            "adapted": asdict(self.adapted),
            "afd_reduction": asdict(self.nearer[0]),
            "spectral_distance_reduction": asdict(self.nearer[1]),
            "seconds": self.seconds,
            "steps": self.training.progress.step,
        }


def commands(result: AudioDemoResult) -> list[str]:
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


def demo(
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

    from musiclora.demo_audio_report import write

    started = time.monotonic()
    o, out = options or AudioDemoOptions(), reporter or Reporter()
    need_audio()
    name = choose(backend)
    find_model("bundled-audio")
    out.say(f"songs: {DATA}")
    out.say(f"terms: {ESSEN_TERMS}")
    held_out = render_data(folder, o, out)
    training = adapt(folder, name, o, out)
    request = FlowRequest(seed=o.seed, count=o.pieces, steps=o.grid, guidance=o.guidance)
    adapter = str(training.run_dir / "adapter-best")
    make_audio(folder / "music" / "clip.wav", request, adapters=[adapter], backend=name, compare=True, reporter=out)
    made, bases = apart(recording_files(folder / "music"))
    sets: dict[str, Recordings] = {}
    for what, files in (("the base", bases), ("the adapted model", made), ("held-out renders", held_out)):
        with out.task(f"listening to {what}") as update:
            sets[what] = measure(files, update)
    base, adapted, reference = sets.values()
    result = AudioDemoResult(
        folder,
        training,
        distances(base, reference, o.seed),
        distances(adapted, reference, o.seed),
        reductions(base, adapted, reference, o.seed, matched=True),
        list(zip(bases, made, strict=True)),
        held_out,
        time.monotonic() - started,
    )
    write(result, o, commands(result), [f"Songs: {DATA}. Terms: {ESSEN_TERMS}."])
    return result


def adapt(folder: Path, backend: str, o: AudioDemoOptions, out: Reporter) -> TrainResult:
    """Cut and encode the recordings, and train the adapter in `<folder>/run`."""
    pieces = folder / "cut"
    if not pieces.exists():
        cut_folder(folder / "recordings", pieces, CutOptions(seconds=SEGMENT, leftover="merge"), reporter=out)
    preprocess(pieces, folder / "latents", "bundled-audio", out, backend=backend)
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
