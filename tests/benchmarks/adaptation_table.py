"""Tables of the adaptation benchmark: groups of recipes, and their scores with the spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from adaptation_runs import Recipe

Runs = Mapping[str, Mapping[str, Any]]  # finished runs by key


def run_key(recipe: Recipe, seed: int) -> str:
    """Name a run."""
    return f"{recipe.name()} seed={seed}".strip()


def base_key(recipe: Recipe) -> str:
    """Name the score of the base in the numbers that a recipe computes with."""
    return f"base backend={recipe.backend} dtype={recipe.dtype}"


def gains(runs: Runs, recipe: Recipe, seeds: Sequence[int], part: str = "report") -> list[float]:
    """List the gains of the finished seeds over the base in bits a note."""
    found = [runs[run_key(recipe, seed)] for seed in seeds if run_key(recipe, seed) in runs]
    return [runs[base_key(recipe)][part] - run[part] for run in found if part in run]


def describe_spread(values: Sequence[float], digits: int = 3) -> str:
    """Format mean and standard deviation; empty without a value."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def markdown(runs: Runs, rows: Sequence[tuple[str, Recipe]], seeds: Sequence[int], whole: Recipe) -> str:
    """Build the table of some recipes.

    Args:
        runs: finished runs by key.
        rows: label and recipe.
        seeds: of the runs.
        whole: full fine-tuning with all songs, whose mean gain is 100 %.
    """
    lines = ["| | bits a note | gain | share of full, all songs | choosing songs, gain |", "|---" * 5 + "|"]
    full = gains(runs, whole, seeds)
    for label, recipe in rows:
        found = gains(runs, recipe, seeds)
        if not found:
            continue
        base = runs[base_key(recipe)]["report"]
        share = describe_spread([100 * gain / statistics.mean(full) for gain in found], 0) + " %" if full else ""
        scores = describe_spread([base - gain for gain in found])
        chosen = describe_spread(gains(runs, recipe, seeds, "choosing"))
        lines.append(f"| {label} | {scores} | {describe_spread(found)} | {share} | {chosen} |")
    return "\n".join(lines)
