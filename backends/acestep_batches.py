"""ACE-Step's flow batches and conditionings: validation, and the arrays that a forward pass reads (numpy)."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.backends.flow_batches import count_values
from musiclora.convert.errors import DataError, join_problems
from musiclora.convert.models.acestep_config import AceStepConfig

__all__ = [
    "MAX_FRAMES",
    "check_batch",
    "check_trained_condition",
    "conditioning",
    "count_values",
    "flow_inputs",
    "pack_condition",
]

MAX_FRAMES = 15_000  # length of the silence latent, 10 minutes, which context latents are cut from
DROP = "drop_condition"
OWN = "own"  # of flow_inputs: where the model's trained condition is added
_GIVEN = ("condition", "condition_valid")


def check_trained_condition(value: np.ndarray, config: AceStepConfig) -> np.ndarray:
    """Copy a trained condition, float32 [K, D].

    Raises:
        DataError: another shape, or values that are not finite.
    """
    rows, width = np.array(value, np.float32), config.encoder.hidden
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != width or not np.isfinite(rows).all():
        raise DataError(f"a trained condition has finite values [K, {width}]; this one has shape {list(rows.shape)}")
    return rows


def _leaves_out(batch: Arrays) -> bool:
    """Tell whether a batch has no condition of its own, so that the trained or else the null condition stands in."""
    return not any(key in batch for key in _GIVEN)


def _condition_problems(batch: Arrays, rows: int, frames: int, config: AceStepConfig) -> list[str]:
    """List condition arrays that are missing or mis-shaped.

    `valid` and `drop_condition` are optional here; `condition` and `condition_valid` come together or not at all.
    """
    lengths = np.shape(batch.get("condition", ()))
    count = lengths[1] if len(lengths) == 3 else 0
    needed = {
        "condition": (rows, count, config.encoder.hidden),
        "condition_valid": (rows, count),
        "context": (rows, frames, 2 * config.latent_dim),
    }
    shapes = {key: shape for key, shape in {**needed, "valid": (rows, frames)}.items() if key in batch}
    optional = _GIVEN if _leaves_out(batch) else ()
    problems = [f"{key} is missing" for key in needed if key not in batch and key not in optional]
    problems += [
        f"{key} has shape {list(np.shape(batch[key]))}, expected {list(shape)}"
        for key, shape in shapes.items()
        if np.shape(batch[key]) != shape
    ]
    if np.shape(batch.get(DROP, False)) not in ((), (rows,)):
        problems.append(f"{DROP} has shape {list(np.shape(batch[DROP]))}, expected a scalar or [{rows}]")
    if frames > MAX_FRAMES:
        problems.append(f"rows have {frames} frames; this model takes at most {MAX_FRAMES}")
    return problems


def check_batch(batch: Arrays, config: AceStepConfig) -> None:
    """Compare a flow batch with the model.

    Args:
        batch: `latents`, `noise` float32 [B, T, C]; `time` float32 [B] in [0, 1]; `valid` bool [B, T]; `condition`
            float32 [B, S, D], the condition encoder's output, and `condition_valid` bool [B, S], or neither: then the
            model's trained condition, or the null condition; `context` float32 [B, T, 2 C], source latents and mask;
            optional `drop_condition`, a bool scalar or [B].
        config: sizes of the model.

    Raises:
        DataError: missing arrays, shapes that differ, times out of range or rows that are too long; all at once.
    """
    shape = np.shape(batch.get("latents", ()))
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"a flow batch needs latents [B, T, {config.latent_dim}]; it has shape {list(shape)}")
    rows, frames, _ = shape
    whole = (rows, frames, config.latent_dim)
    needed = {"latents": whole, "noise": whole, "time": (rows,)}
    problems = [f"{key} is missing" for key in (*needed, "valid") if key not in batch]
    problems += [
        f"{key} has shape {list(np.shape(batch[key]))}, expected {list(expected)}"
        for key, expected in needed.items()
        if key in batch and np.shape(batch[key]) != expected
    ]
    problems += _condition_problems(batch, rows, frames, config)
    if "time" in batch and not (np.min(batch["time"]) >= 0 and np.max(batch["time"]) <= 1):
        problems.append(f"time goes from {np.min(batch['time']):g} to {np.max(batch['time']):g}; it lies in [0, 1]")
    if problems:
        raise DataError(f"flow batch: {join_problems(problems)}")


def pack_condition(
    condition: np.ndarray, valid: np.ndarray, null: np.ndarray, drop: np.ndarray | bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Move the valid rows of each condition to the front, and cut what is padding everywhere.

    Padding is zero afterwards, whatever it was: half-precision encoders leave NaN there. A dropped condition is one
    row of the null condition. Attention over equal rows gives that row, so the number of its copies does not matter.
    A condition without a valid row stays empty: nothing is attended.

    Args:
        condition: float32 [B, S, D].
        valid: bool [B, S].
        null: float32 [D].
        drop: bool scalar or [B].

    Returns:
        The rows, float32 [B, N, D], and their mask, bool [B, N]; N is the largest number of rows, at least 1.
    """
    kept = np.asarray(valid, bool)
    dropped = np.broadcast_to(np.asarray(drop, bool), len(kept))
    counts = np.where(dropped, 1, kept.sum(axis=1))
    rows = np.zeros((len(kept), max(1, int(counts.max())), condition.shape[2]), np.float32)
    for index, count in enumerate(counts):
        rows[index, :count] = null if dropped[index] else condition[index][kept[index]]
    return rows, np.arange(rows.shape[1]) < counts[:, None]


def _zero_padding(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Copy latents [B, T, channels] in float32 with zeros in padding frames."""
    return np.where(valid[..., None], np.asarray(values, np.float32), np.float32(0))


def _condition_arrays(batch: Arrays, valid: np.ndarray, null: np.ndarray, own_rows: int) -> dict[str, np.ndarray]:
    drop = batch.get(DROP, np.zeros((), bool))
    context = {"context": _zero_padding(batch["context"], valid), "valid": valid}
    if not _leaves_out(batch):
        condition = np.asarray(batch["condition"], np.float32)
        rows, kept = pack_condition(condition, batch["condition_valid"], null, drop)
        return {"condition": rows, "condition_valid": kept, **context}
    dropped = np.broadcast_to(np.asarray(drop, bool), len(valid)) | (own_rows == 0)
    # As many rows whatever is dropped: a compiled step would be compiled again otherwise.
    rows = np.zeros((len(valid), max(1, own_rows), len(null)), np.float32)
    rows[dropped, 0] = null
    kept = ~dropped[:, None] | (np.arange(rows.shape[1]) == 0)
    own = {OWN: (~dropped).astype(np.float32)} if own_rows else {}
    return {"condition": rows, "condition_valid": kept, **own, **context}


def flow_inputs(batch: Arrays, null: np.ndarray, own_rows: int = 0) -> dict[str, np.ndarray]:
    """Collect what a pass reads: latents, noise and context without padding, time, valid, and the packed condition.

    Args:
        batch: checked flow batch.
        null: the null condition, float32 [D].
        own_rows: rows of the model's trained condition; 0 without one.

    Returns:
        Where the trained condition stands in, `condition` has its number of rows, zeros except for the null condition,
        and `own`, float32 [B], is 1 in the examples that it is added to.
    """
    valid = np.asarray(batch["valid"], bool)
    main = {key: _zero_padding(batch[key], valid) for key in ("latents", "noise")}
    return main | {"time": np.asarray(batch["time"], np.float32)} | _condition_arrays(batch, valid, null, own_rows)


def conditioning(
    batch: Arrays, config: AceStepConfig, null: np.ndarray, own: np.ndarray | None = None
) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
    """Collect the time-independent arrays of a conditioning, and the shape [B, T, C] of the latents it is for.

    `valid` bool [B, T] is optional; without it all frames are valid. A trained condition own, float32 [K, D], or else
    the null condition, stands in for a missing `condition`.

    Raises:
        DataError: no context, or arrays that do not fit; all at once.
    """
    sized = np.shape(batch.get("context", ()))
    if len(sized) != 3 or 0 in sized:
        raise DataError(
            f"a conditioning needs context [B, T, {2 * config.latent_dim}], which says how long it is; "
            f"it has shape {list(sized)}"
        )
    rows, frames, _ = sized
    if _leaves_out(batch):
        own = null[None] if own is None else own
        every = np.broadcast_to(own, (rows, *own.shape))
        batch = {**batch, "condition": every, "condition_valid": np.ones(every.shape[:2], bool)}
    if problems := _condition_problems(batch, rows, frames, config):
        raise DataError(f"conditioning: {join_problems(problems)}")
    valid = np.asarray(batch.get("valid", np.ones((rows, frames), bool)), bool)
    return (rows, frames, config.latent_dim), _condition_arrays(batch, valid, null, 0)
