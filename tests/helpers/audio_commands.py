"""Commands that read a folder of recordings."""

from __future__ import annotations


def commands(folder, base, out, backend):
    """The commands that read a folder of recordings."""
    return {
        "cut": ["cut", "--input-dir", folder, "--output-dir", out / "cut", "--seconds", 1.5],
        "preprocess": [
            "preprocess",
            "--data-dir",
            folder,
            "--output-dir",
            out / "latents",
            "--model",
            base,
            "--backend",
            backend,
        ],
        "train": [
            "train",
            "--data-dir",
            folder,
            "--output-dir",
            out / "run",
            "--model",
            base,
            "--backend",
            backend,
            "--max-seq-len",
            20,
            "--max-steps",
            1,
            "--lora-r",
            2,
        ],
    }
