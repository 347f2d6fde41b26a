"""The whole audio chain on real recordings: cut, preprocess, train, generate, evaluate, cross over, load in PEFT.

    python tests/benchmarks/audio_real.py --output-dir out/audio-real [--backend torch|mlx] [--steps 60] [--files 12]

Takes the orchestral music of Debian's package wesnoth-1.16-music (GPL-2+), which is downloaded and unpacked into the
output folder with apt-get and dpkg and is not part of this project. Every step is the command that a user types; the
first files are trained on, the same number after them is compared with. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGE = "wesnoth-1.16-music"
MODEL = "bundled-audio"
# The bundled codec knows one instrument at a time: an orchestra at its own level is beyond it.
LOUDNESS = ("--loudness", -30)


def fetch(folder: Path) -> list[Path]:
    """The package's recordings, unpacked under a folder."""
    if not any(folder.rglob("*.ogg")):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, stdout=sys.stderr)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return sorted(path for path in folder.rglob("*.ogg") if path.stat().st_size > 500_000)


def musiclora(*arguments: object) -> dict[str, Any]:
    """Run one command with --json, as a user would."""
    command = [sys.executable, "-m", "musiclora", *map(str, arguments), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def gather(files: list[Path], folder: Path) -> Path:
    """Copy recordings into a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder)
    return folder


def peft_keys(base: Path, adapter: Path) -> dict[str, int]:
    """Load the adapter in vanilla PEFT on `DiT.from_folder`; how many keys were missing or left over."""
    from peft import PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    from musiclora.backends.torch.diffrhythm import DiT

    model = PeftModel.from_pretrained(DiT.from_folder(base), adapter)
    result = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
    missing = [key for key in result.missing_keys if "lora_" in key]
    return {"missing": len(missing), "unexpected": len(result.unexpected_keys)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--files", type=int, default=12)
    options = parser.parse_args()
    out, backend = options.output_dir, ("--backend", options.backend)
    files = fetch(out / "package")
    started = time.monotonic()
    train = gather(files[: options.files], out / "recordings")
    held = gather(files[options.files : 2 * options.files], out / "held-out")
    for name, source in (("cut", train), ("cut-held-out", held)):
        shutil.rmtree(out / name, ignore_errors=True)
        musiclora("cut", "--input-dir", source, "--output-dir", out / name, "--seconds", 30, *LOUDNESS)
    shutil.rmtree(out / "latents", ignore_errors=True)
    at = time.monotonic()
    musiclora("preprocess", "--data-dir", out / "cut", "--output-dir", out / "latents", "--model", MODEL, *backend)
    encoding = time.monotonic() - at
    run = out / f"run-{options.backend}"
    musiclora(
        "train",
        "--model",
        MODEL,
        "--data-dir",
        out / "latents",
        "--output-dir",
        run,
        "--max-steps",
        options.steps,
        "--lr",
        1e-3,
        "--lora-dropout",
        0.05,
        "--batch-size",
        8,
        "--grad-accum-steps",
        1,
        "--restart",
        *backend,
    )
    adapter = run / "adapter-best"
    losses = {
        name: musiclora("evaluate", "--data-dir", out / "cut-held-out", "--adapter-dir", adapter, "--backend", name)
        for name in ("torch", "mlx")
    }
    music = out / "music"
    shutil.rmtree(music, ignore_errors=True)
    musiclora(
        "generate",
        "--adapter-dir",
        adapter,
        "--output",
        music / "piece.wav",
        "--count",
        12,
        "--compare",
        "--guidance",
        0,
        *backend,
    )
    distances = musiclora("evaluate", "--generated-dir", music, "--reference-dir", out / "cut-held-out")
    from musiclora.models import find_model

    sys.stdout.write(
        json.dumps(
            {
                "backend": options.backend,
                "files": options.files,
                "encoding_s": round(encoding, 1),
                "held_out": losses,
                "distances": {k: v for k, v in distances.items() if k != "files"},
                "peft": peft_keys(find_model(MODEL).path, adapter),
                "seconds": round(time.monotonic() - started, 1),
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
