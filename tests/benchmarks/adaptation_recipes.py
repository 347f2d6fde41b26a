"""Recipes of the adaptation benchmark: the center, and tables that change one thing of it at a time."""

from __future__ import annotations

from adaptation_runs import Recipe

Row = tuple[str, Recipe]

CENTER = "lr=1e-3 steps=60 transpose=5"
FULL = "songs=0 trains=all lr=3e-4 steps=600 transpose=5"  # full fine-tuning with all songs: 100 % of the gain

# By name: title, and rows of a label and what it changes.
TABLES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "rate": (
        "Learning rate and steps",
        (
            ("2e-4, 120 steps, keys as they are (the old default)", "! lr=2e-4 steps=120"),
            ("5e-4, 60 steps", "lr=5e-4"),
            ("5e-4, 120 steps", "lr=5e-4 steps=120"),
            ("**1e-3, 60 steps**", ""),
            ("3e-3, 60 steps", "lr=3e-3"),
            ("3e-3, 120 steps", "lr=3e-3 steps=120"),
            ("1e-3, until early stopping, two or three of the songs held out for it", "stop=0.2 steps=160"),
            ("full fine-tuning, 1e-4, 60 steps", "trains=all lr=1e-4"),
        ),
    ),
    "adapter": (
        "Adapter",
        (
            ("**rank 16, c_attn, c_proj, c_fc**", ""),
            ("rank 4", "rank=4"),
            ("rank 64", "rank=64"),
            ("c_attn alone", "targets=c_attn"),
            ("c_fc and c_proj of the feed-forward layers", "targets=mlp.c_proj,mlp.c_fc"),
            ("rsLoRA (alpha 32: a scale of 8 in place of 2)", "ratio=8"),
            ("rsLoRA, 2.5e-4", "ratio=8 lr=2.5e-4"),
            ("LoRA+, B at 4 times the rate of A, 5e-4", "plus=4 lr=5e-4"),
            ("LoRA+, B at 16 times the rate of A, 2e-4", "plus=16 lr=2e-4"),
            ("DoRA", "dora=1"),
        ),
    ),
    "songs": (
        "Songs and regularisation",
        (
            ("**keys within 5 semitones, dropout 0.05, weight decay 0.01**", ""),
            ("keys as they are", "transpose=0"),
            ("keys within 11 semitones", "transpose=11"),
            ("dropout 0.3", "dropout=0.3"),
            ("weight decay 1", "decay=1"),
            ("30 % of the tokens from the base's own tunes", "mix=0.3"),
            ("4,096 tokens a step", "tokens=4096"),
        ),
    ),
    "whole": (
        "All songs",
        (
            ("15 songs, LoRA", ""),
            ("all songs, LoRA, 3e-3, 400 steps", "songs=0 lr=3e-3 steps=400"),
            ("all songs, LoRA, 1e-3, 600 steps", "songs=0 steps=600"),
            ("all songs, full fine-tuning", "! " + FULL),
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
