"""ACE-Step's whole chain on a tiny model that is trained here: a base on ten instruments, an adapter for another one.

    python tests/benchmarks/acestep_tiny.py FOLDER [--minutes 8] [--steps 300] [--backend torch]

Needs the extras acestep and demo. The recordings are rendered from public-domain melodies (music21) with a soundfont:
ten instruments, the caption names the instrument. A base of three million parameters with the bundled codec (64
channels) and a random text encoder is trained from scratch for some minutes; the random encoder still tells captions
apart. Then `musiclora.jobs` does what a user does: preprocess recordings of a steel-string guitar, which the base never
heard, train an adapter with songs held out, generate, evaluate. Prints the held-out loss of base and adapter with its
interval over songs, by quarter of the times, and the distance of generated clips to held-out ones. Resumes in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import acestep_folder
from acestep_toys import FURTHER, read_all, reader

from musiclora.audio.acestep.architecture import ACESTEP
from musiclora.audio.files.cutting import CutOptions, cut_folder
from musiclora.audio.latents.load import load_recordings
from musiclora.audio.windows import WindowEpochs
from musiclora.backends.base import FAMILIES, FlowModel, OptimSpec
from musiclora.backends.registry import get_backend
from musiclora.bundled import BUNDLED_MODELS
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep
from musiclora.demo.corpora import base_tunes, order_by_seed
from musiclora.demo.renders import WESTERN, read_songs, render_instruments
from musiclora.evaluation.comparison import ComparisonRequest
from musiclora.jobs import compare, evaluate, generate, preprocess, train
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig

STACK = StackConfig(192, 512, 4, 2, 48)
CONFIG = AceStepConfig(
    STACK, STACK, alternating(6), lyric_layers=1, timbre_layers=1, text_dim=16, sliding_window=16, model_version="base"
)
NEW = {f"steel-guitar-{i}": 25 for i in range(1, 7)}
HELD = {f"held-{i}": 25 for i in range(1, 3)}
SECONDS, CLIP, LOUDNESS, FRAMES, ROWS = 180.0, 6.0, -20.0, 128, 16


def render(folder: Path, out: Reporter) -> None:
    """Render and cut the recordings of base, adapter and comparison; no tune is in two of them."""
    songs = read_songs(order_by_seed(base_tunes(), 11)[:240], out)
    for name, instruments, seconds in (("base", WESTERN, SECONDS), ("new", NEW, 90.0), ("held", HELD, 60.0)):
        if (folder / name).is_dir():
            continue
        made = render_instruments(songs, instruments, folder / f"{name}-whole", seconds, out, f"rendering {name}")
        used = {tune for recording in made for tune in recording.tunes}
        songs = [song for song in songs if song.name not in used]
        cut = CutOptions(seconds=CLIP, leftover="merge", loudness=LOUDNESS)
        cut_folder(folder / f"{name}-whole", folder / name, cut, reporter=out)
        files = sorted((folder / name).glob("*.wav"))
        words = [{"filename": f.name, "caption": f.stem.rsplit("-", 2 if name != "base" else 1)[0]} for f in files]
        content = {"metadata": {"all_instrumental": True}, "samples": words}
        (folder / name / "dataset.json").write_text(json.dumps(content))


def write_random(folder: Path) -> None:
    """Write the untrained model with the bundled codec and a random text encoder."""
    tensors = {
        name: acestep_folder.tensor(name, shape, 0.7) for name, shape in acestep_folder.tensor_shapes(CONFIG).items()
    }
    tensors["silence_latent"] *= 0  # the bundled codec's silence is nearly that
    write_acestep(folder, CONFIG, reader(tensors), "hf", "float32", other_settings=FURTHER)
    shutil.copytree(BUNDLED_MODELS["bundled-audio"] / "vae", folder / "vae")
    acestep_folder.write_text_encoder(folder / "text_encoder", CONFIG.text_dim)


def train_base(folder: Path, backend: str, minutes: float, out: Reporter) -> None:
    """Train all weights of the transformer on the ten instruments."""
    start, done = folder / "random", folder / "model"
    if done.is_dir():
        return
    shutil.rmtree(start, ignore_errors=True)
    write_random(start)
    preprocess(folder / "base", folder / "base-latents", str(start), backend, estimates=False, reporter=out)
    found = load_recordings(folder / "base-latents", find_model(str(start)), None, backend, folder / "none", out)
    epochs = WindowEpochs(found.recordings, ACESTEP.scoring_form(start, FRAMES), ROWS, 0)
    model = cast(FlowModel, get_backend(backend).load(FAMILIES["audio"], start))
    training = model.start_training(OptimSpec(), "all")
    began, epoch, losses = time.monotonic(), 0, list[float]()
    while (spent := (time.monotonic() - began) / 60 / minutes) < 1:
        for batch in epochs.batches(epoch):
            spent = (time.monotonic() - began) / 60 / minutes
            result = training.step([batch], 2e-3 * min(1.0, len(losses) / 50) * max(0.02, 1 - spent))
            losses.append(result.loss / result.weight)
        epoch += 1
        print(f"base: epoch {epoch}, {len(losses)} steps, loss {np.mean(losses[-50:]):.4f}", flush=True)
    tensors = read_all(start) | {name: np.array(value) for name, value in model.read_weights()}
    write_acestep(done, CONFIG, reader(tensors), "hf", "float32", other_settings=FURTHER)
    shutil.copytree(start / "vae", done / "vae")
    shutil.copytree(start / "text_encoder", done / "text_encoder")


def adapt(folder: Path, backend: str, steps: int, out: Reporter) -> dict[str, Any]:
    """Preprocess, train, generate and evaluate as a user does; return the figures."""
    model, latents = str(folder / "model"), folder / "new-latents"
    preprocess(folder / "new", latents, model, backend, estimates=False, reporter=out)
    settings: dict[str, Any] = {"max_steps": steps, "max_seq_len": FRAMES, "val_split": 0.34, "lora_r": 16, "lr": 1e-3}
    run = folder / "run"
    result = train(TrainConfig(str(latents), str(run), model, backend=backend, **settings), out)
    adapter = str(run / "adapter-best")
    preprocess(folder / "held", folder / "held-latents", model, backend, estimates=False, reporter=out)
    unseen = evaluate(folder / "held-latents", model, [adapter], backend, reporter=out).as_json()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    quarters = [{k: v for k, v in row.items() if k.startswith("val_time")} for row in rows if "val_time_1_loss" in row]
    words = {"caption": "steel-guitar", "seconds": CLIP, "count": 12, "steps": 32, "guidance": 2.0}
    generate(
        folder / "music" / "clip.wav",
        model,
        [adapter],
        backend,
        compare=True,
        overwrite=True,
        reporter=out,
        **words,  # type: ignore[arg-type]
    )
    clips = sorted((folder / "music").glob("*.wav"))
    for name in ("adapted", "bare"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    for clip in clips:
        shutil.copy(clip, folder / ("bare" if "-base" in clip.name else "adapted") / clip.name)
    distances = {
        name: compare(ComparisonRequest(folder / name, folder / "held"), out).as_json()["afd"]
        for name in ("bare", "adapted")
    }
    return {
        "gain": result.as_json().get("gain"),
        "unseen": {key: unseen[key] for key in ("loss", "base", "gain")},
        "quarters": [quarters[0], quarters[-1]],
        "afd": distances,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the base's training")
    parser.add_argument("--steps", type=int, default=300, help="of the adapter's training")
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    out = Reporter()
    render(options.folder, out)
    train_base(options.folder, options.backend, options.minutes, out)
    print(json.dumps(adapt(options.folder, options.backend, options.steps, out), indent=1))


if __name__ == "__main__":
    main()
