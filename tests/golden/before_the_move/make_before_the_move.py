"""Remake files/: what the command line of commit 6ef70d8 wrote. Run by hand, at that code only; see PROVENANCE.md."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.update(MUSICLORA_COMPILE="off", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from click.testing import CliRunner, Result

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FILES = HERE / "files"
sys.path.insert(0, str(ROOT / "tests"))

COMMIT = "6ef70d8"
CODE = ["musiclora", "backends", "convert", "pyproject.toml", "tests/toy_audio.py"]
BACKENDS = ("torch", "mlx")
RANK = {"torch": "2", "mlx": "1"}  # of the audio adapters
STOP = {"symbolic": 9, "audio": 3}  # inside the second epoch
TUNES = (
    "cockle-geordie all-hands-upon-deck small-coals-an-little-money stagshaw-bank-fair the-black-cock-o-whickham "
    "the-peacock-followed-the-hen"
).split()
RATE = 8000  # of the recordings: enough for a codec that knows nothing, and small
LARGE = 200_000  # bytes above which a file is kept compressed
SYMBOLIC = (
    "train --data-dir augmented --model bases/symbolic --max-seq-len 128 --batch-size 4 --grad-accum-steps 2 "
    "--epochs 3 --lr 5e-3 --lora-r 4 --lora-dropout 0 --val-split 0.25 --num-workers 1 --seed 5"
).split()
AUDIO = (
    "train --data-dir recordings --model bases/audio --max-seq-len 24 --batch-size 2 --grad-accum-steps 2 "
    "--epochs 4 --lr 5e-3 --lora-dropout 0 --val-split 0.3 --seed 5"
).split()
EVALUATE = {
    "symbolic": "evaluate --data-dir augmented --max-seq-len 128 --num-workers 1 --model".split(),
    "audio": "evaluate --data-dir latents --max-seq-len 24 --model".split(),
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def check_code() -> None:
    """Refuse any code but that of COMMIT, and a tree in which something else than the output has changed."""
    import musiclora

    output = FILES.relative_to(ROOT).as_posix()
    if dirty := git("status", "--porcelain", "--", ".", f":!{output}"):
        sys.exit(f"the tree is dirty:\n{dirty}")
    if changed := git("diff", "--name-only", COMMIT, "HEAD", "--", *CODE):
        sys.exit(f"this is not the code of {COMMIT}; changed since:\n{changed}")
    if Path(musiclora.__file__).resolve().parents[1] != ROOT:
        sys.exit(f"musiclora is installed from {musiclora.__file__}, not from {ROOT}")


def call(*arguments: str, code: int = 0) -> Result:
    """Run one command as typed."""
    from musiclora.cli import main

    result = CliRunner().invoke(main, list(arguments))
    if result.exit_code != code:
        sys.exit(f"{' '.join(arguments)}: code {result.exit_code}\n{result.output}")
    return result


def loss(*arguments: str) -> float:
    found: dict[str, Any] = json.loads(call(*arguments, "--json").stdout)
    return float(found["loss"])


def stop_after(steps: int, *arguments: str) -> None:
    """Run a training and press Ctrl-C in its so manieth step."""
    from musiclora.cli.reporting import Console

    def step(self: Any, note: Any) -> None:
        if note.progress.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    with mock.patch.object(Console, "step", step):
        call(*arguments, code=130)


def coarse(tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Weights of few different values, so that the file compresses."""
    for name, array in tensors:
        unit = np.float32(2.0 ** np.floor(np.log2(array.std() + 1e-9)))
        yield name, np.round(array / unit) * unit


def write_bases() -> None:
    import toy_audio

    from musiclora.convert.diffrhythm import write_diffrhythm
    from musiclora.convert.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
    from musiclora.data.tokens import own_tokenizer

    tokenizer = own_tokenizer()
    shape = Gpt2Config(
        tokenizer.vocab_size, 160, 32, 2, 2, 64, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id
    )
    extra = {"tokenizer.json": tokenizer.to_json().encode()}
    write_checkpoint(Path("bases/symbolic"), shape, fresh_tensors(shape, 3), "hf", extra_files=extra)
    audio = toy_audio.config(conv_layers=0)
    tensors = coarse(toy_audio._tensors(audio.tensor_shapes(), 0.5))
    write_diffrhythm(Path("bases/audio"), audio, tensors, "hf", "float32")
    toy_audio.write_codec(Path("bases/audio/vae"))


def write_recordings() -> None:
    """Five tones, and one recording longer than the 95 s that are encoded at once, quiet but for beeps."""
    import soundfile
    import toy_audio

    for folder in ("recordings", "long-recordings"):
        Path(folder).mkdir()
    for i in range(5):
        soundfile.write(f"recordings/tone-{i}.flac", toy_audio.tone(2.0 + 0.3 * i, i, RATE)[:, 0], RATE)
    shutil.copy("recordings/tone-0.flac", "long-recordings/a-short.flac")
    sound, time = np.zeros(98 * RATE, np.float32), np.arange(400) / RATE
    for second in range(0, 98, 4):
        sound[second * RATE :][:400] = 0.3 * np.sin(2 * np.pi * (220 + 5 * second) * time)
    soundfile.write("long-recordings/b-long.flac", sound, RATE)


def write_half_an_encoding() -> None:
    """Stop `preprocess` in the second block of its second recording."""
    from musiclora import audio_preparing

    find = audio_preparing.get_backend
    calls: list[int] = []

    def stopping(name: str) -> Any:
        backend = find(name)
        codec = backend.load_codec(Path("bases/audio/vae"))
        encode: Callable[[np.ndarray], Any] = codec.encode

        def counted(audio: np.ndarray) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return encode(audio)

        codec.encode = counted
        return mock.Mock(load_codec=lambda where: codec)

    with mock.patch.object(audio_preparing, "get_backend", stopping):
        call(*COMMANDS["half-latents"], "--backend", "torch", code=130)


COMMANDS: Mapping[str, list[str]] = {
    "augmented": "augment --input-dir songs --output-dir augmented --transpose 2 --num-workers 1".split(),
    "tokens": "preprocess --data-dir augmented --output-dir tokens --model bases/symbolic --num-workers 1".split(),
    "latents": "preprocess --data-dir recordings --output-dir latents --model bases/audio".split(),
    "half-latents": "preprocess --data-dir long-recordings --output-dir half-latents --model bases/audio".split(),
    **{f"symbolic-{b}": [*SYMBOLIC, "--backend", b] for b in BACKENDS},
    **{f"audio-{b}": [*AUDIO, "--lora-r", RANK[b], "--backend", b] for b in BACKENDS},
    "mlx-lm": "convert adapter finished/symbolic-torch converted/mlx-lm --to mlx-lm --model bases/symbolic".split(),
    "kohya": (
        "convert adapter finished/audio-torch converted/kohya.safetensors --to kohya --model bases/audio".split()
    ),
    "diffusers": "convert adapter finished/audio-torch converted/diffusers --to diffusers --model bases/audio".split(),
    "base-mlx": "convert model bases/symbolic converted/base-mlx --to mlx".split(),
    "base-4bit": "convert model bases/symbolic converted/base-4bit --to mlx --quantize 4".split(),
}


def write_runs() -> None:
    """Each run stopped by Ctrl-C, and a copy of it that the same command finished."""
    for family, steps in STOP.items():
        for backend in BACKENDS:
            name = f"{family}-{backend}"
            stop_after(steps, *COMMANDS[name], "--output-dir", f"stopped/{name}")
            for folder in Path("stopped").glob(f"{name}*"):
                shutil.copytree(folder, Path("finished") / folder.name)
            call(*COMMANDS[name], "--output-dir", f"finished/{name}")
            Path("finished", name, "loss.png").unlink()  # only large


def write_expected() -> None:
    """Losses of all that is here, by the backend that made it."""
    expected: dict[str, Any] = {}
    for name in [f"{family}-{backend}" for family in STOP for backend in BACKENDS]:
        family, backend = name.split("-")
        score = [*EVALUATE[family], f"bases/{family}", "--backend", backend]
        expected[f"base {name}"] = loss(*score)
        expected[f"adapter {name}"] = loss(*score, "--adapter-dir", f"finished/{name}")
    quantised = [*EVALUATE["symbolic"], "converted/base-4bit", "--backend", "torch"]
    expected["base-4bit"] = loss(*quantised)
    expected["adapter on base-4bit"] = loss(*quantised, "--adapter-dir", "finished/symbolic-torch")
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    commands = {**COMMANDS, **{f"evaluate {family}": command for family, command in EVALUATE.items()}}
    Path("commands.json").write_text(json.dumps(commands, indent=1) + "\n", encoding="utf-8")
    packages = (
        "numpy safetensors torch mlx peft symusic miditok tokenizers soundfile soxr click transformers mlx-lm".split()
    )
    versions = {"commit": COMMIT, "python": sys.version.split()[0], **{p: metadata.version(p) for p in packages}}
    Path("versions.json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")


def compress(folder: Path) -> None:
    """Keep large files as .xz."""
    for path in [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > LARGE]:
        path.with_name(path.name + ".xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
        path.unlink()


def main() -> None:
    """Make everything in an empty folder, by relative paths, and put it in place."""
    check_code()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work"
        (work / "songs").mkdir(parents=True)
        os.chdir(work)
        for tune in TUNES:
            shutil.copy(ROOT / "musiclora/bundled/tunes" / f"{tune}.abc", "songs")
        write_bases()
        write_recordings()
        for name in ("augmented", "tokens"):
            call(*COMMANDS[name])
        call(*COMMANDS["latents"], "--backend", "torch")
        write_half_an_encoding()
        write_runs()
        Path("converted").mkdir()
        for name in ("mlx-lm", "kohya", "diffusers", "base-mlx", "base-4bit"):
            call(*COMMANDS[name])
        write_expected()
        for path in (p for p in work.rglob("*") if p.is_file()):
            if any(text.encode() in path.read_bytes() for text in (scratch, str(ROOT), str(Path.home()) + "/")):
                sys.exit(f"{path.relative_to(work)} holds a path of this machine")
        compress(work)
        os.chdir(HERE)
        shutil.rmtree(FILES, ignore_errors=True)
        shutil.copytree(work, FILES)


if __name__ == "__main__":
    main()
