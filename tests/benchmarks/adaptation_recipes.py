"""Recipes of the adaptation benchmark: the center, and tables that change one thing of it at a time."""

from __future__ import annotations

from adaptation_runs import Recipe

Row = tuple[str, Recipe]

CENTER = "lr=1e-3 steps=60 transpose=5"
FULL = "songs=0 trains=all lr=3e-4 steps=600 transpose=5"  # full fine-tuning with all songs: 100 % of the gain

# By name: title, and rows of a label and what it changes. `first` is the first round, of one seed (`--seeds 0`); the
# others are what was kept for three.
TABLES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "kept": (
        "Fifteen songs, three seeds",
        (
            ("2e-4, 120 steps, keys as they are", "! lr=2e-4 steps=120"),
            ("**1e-3, 60 steps, keys within 5 semitones**", ""),
            ("5e-4, 120 steps", "lr=5e-4 steps=120"),
            ("3e-3", "lr=3e-3"),
            ("up to 160 steps, stopped early by two of the songs", "stop=0.1 steps=160"),
            ("60 steps, the best of them by two of the songs", "stop=0.1"),
            ("keys as they are", "transpose=0"),
            ("keys within 11 semitones", "transpose=11"),
            ("rank 4", "rank=4"),
            ("rank 64", "rank=64"),
            ("c_attn alone", "targets=c_attn"),
            ("rsLoRA (alpha 32: a scale of 8 in place of 2)", "ratio=8"),
            ("dropout 0.3", "dropout=0.3"),
            ("weight decay 1", "decay=1"),
            ("30 % of the tokens from the base's own tunes", "mix=0.3"),
            ("full fine-tuning, 1e-4", "trains=all lr=1e-4"),
        ),
    ),
    "methods": (
        "DoRA and LoRA+, three seeds",
        (
            ("DoRA", "dora=1"),
            ("LoRA+, B at 16 times the rate of A, 2e-4", "plus=16 lr=2e-4"),
            ("LoRA+, B at 4 times the rate of A, 5e-4", "plus=4 lr=5e-4"),
        ),
    ),
    "first": (
        "First round, one seed",
        (
            ("5e-4", "lr=5e-4"),
            ("5e-4, 120 steps, keys as they are", "lr=5e-4 steps=120 transpose=0"),
            ("3e-3, 120 steps", "lr=3e-3 steps=120"),
            ("3e-3, keys as they are", "lr=3e-3 transpose=0"),
            ("1e-2", "lr=1e-2"),
            ("up to 160 steps, stopped early by three of the songs", "stop=0.2 steps=160"),
            ("120 steps, dropout 0.5, keys within 11 semitones", "steps=120 dropout=0.5 transpose=11"),
            ("c_fc and c_proj of the feed-forward layers", "targets=mlp.c_proj,mlp.c_fc"),
            ("4,096 tokens a step", "tokens=4096"),
            ("full fine-tuning, 3e-4", "trains=all lr=3e-4"),
        ),
    ),
    "whole": (
        "All songs, one seed",
        (
            ("LoRA, 2e-4, 200 steps", "songs=0 lr=2e-4 steps=200"),
            ("LoRA, 1e-3, 200 steps", "songs=0 steps=200"),
            ("LoRA, 3e-3, 400 steps", "songs=0 lr=3e-3 steps=400"),
            ("LoRA, 1e-3, 600 steps", "songs=0 steps=600"),
            ("full fine-tuning, 3e-4, 600 steps", "! " + FULL),
        ),
    ),
}


def table_rows(name: str) -> list[Row]:
    """Build the labelled recipes of a table."""
    return [(label, change_recipe(changes)) for label, changes in TABLES[name][1]]


def change_recipe(changes: str) -> Recipe:
    """Change settings of the center; `!` before them starts from the defaults of `Recipe` instead."""
    if changes.startswith("!"):
        return Recipe.parse(changes[1:])
    return Recipe.parse(f"{CENTER} {changes}")
