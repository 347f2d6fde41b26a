"""How much nearer an adapter brings the bundled audio model to renders it has not heard, over seeds.

    python tests/benchmarks/audio_style.py --output-dir out/audio-style [--seeds 7 8 9] [--backend torch|mlx]
        [--longest-training 3600]

Runs the audio demo once per seed; the seed draws the songs, the training and the noise. Prints both distances of base
and adapted model as mean and standard deviation over the seeds, with the soundfont and all options. A finished seed is
not run again. The training is not shortened on a slow machine, unless --longest-training gives it fewer seconds.
MUSICLORA_SOUNDFONT=FILE.sf2 renders with another soundfont than the extra's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musiclora.cli.console import console
from musiclora.demo.audio import audio_demo
from musiclora.demo.audio_result import AudioDemoOptions

KEYS = {"afd": "Audio Feature Distance", "spectral": "Spectral Distance, dB²"}


def run(folder: Path, seed: int, backend: str, seconds: float) -> dict[str, Any]:
    """What one seed gave, kept beside its folder."""
    kept = folder / f"seed-{seed}.json"
    if not kept.is_file():
        with console() as out:
            result = audio_demo(folder / f"seed-{seed}", backend, AudioDemoOptions(seed=seed, seconds=seconds), out)
        sys.stderr.write(result.lines()[0] + "\n")
        kept.write_text(json.dumps(result.record(), default=str), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: rows are distances, columns base, adapted, the reduction and real against real."""
    lines = ["| | base | adapted | nearer by | real against real |", "|---|---|---|---|---|"]
    for key, name in KEYS.items():
        base, adapted, real = (
            [r[model][which]["value"] for r in runs]
            for model, which in (("base", key), ("adapted", key), ("base", f"real_{key}"))
        )
        share = [100 * (1 - a / b) for a, b in zip(adapted, base, strict=True)]
        cells = " | ".join(f"{spread(values)}" for values in (base, adapted))
        lines.append(f"| {name} | {cells} | {spread(share)} % | {spread(real)} |")
    return "\n".join(lines)


def conditions(runs: list[dict[str, Any]], options: AudioDemoOptions) -> str:
    """Soundfonts, and every option of the demo but the seed and the time."""
    fonts = sorted({Path(r["soundfont"]).name for r in runs})
    steps = sorted({r["steps"] for r in runs})
    given = {k: v for k, v in asdict(options).items() if k not in ("seed", "seconds", "steps")}
    clips = sorted({r["base"]["reference"] for r in runs})
    return (
        f"soundfont {', '.join(fonts)}; steps {', '.join(map(str, steps))}; reference clips "
        f"{', '.join(map(str, clips))}; " + ", ".join(f"{k} {v}" for k, v in given.items())
    )


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values) if len(values) > 1 else 0:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--longest-training", type=float, default=3600.0, help="seconds")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    runs = [run(options.output_dir, seed, options.backend, options.longest_training) for seed in options.seeds]
    sys.stdout.write(table(runs) + "\n\n" + conditions(runs, AudioDemoOptions()) + "\n")


if __name__ == "__main__":
    main()
