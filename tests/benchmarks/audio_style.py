"""How much nearer an adapter brings the bundled audio model to renders it has not heard, over seeds.

    python tests/benchmarks/audio_style.py --output-dir out/audio-style [--seeds 7 8 9] [--backend torch|mlx]

Runs the audio demo once per seed; the seed draws the songs, the training and the noise. Prints both distances of base
and adapted model as mean and standard deviation over the seeds. A finished seed is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from musiclora.cli.console import console
from musiclora.demo.audio import audio_demo
from musiclora.demo.audio_result import AudioDemoOptions

KEYS = {"afd": "Audio Feature Distance", "spectral": "Spectral Distance, dB²"}


def run(folder: Path, seed: int, backend: str) -> dict[str, Any]:
    """What one seed gave, kept beside its folder."""
    kept = folder / f"seed-{seed}.json"
    if not kept.is_file():
        with console() as out:
            result = audio_demo(folder / f"seed-{seed}", backend, AudioDemoOptions(seed=seed), out)
        kept.write_text(json.dumps({**result.record(), "folder": str(result.folder)}), encoding="utf-8")
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


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values) if len(values) > 1 else 0:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    runs = [run(options.output_dir, seed, options.backend) for seed in options.seeds]
    sys.stdout.write(table(runs) + "\n")


if __name__ == "__main__":
    main()
