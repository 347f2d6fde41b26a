"""Flow batches and conditionings: validation, and the arrays that a forward pass reads (numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.convert.errors import DataError, join_problems

Shapes = Mapping[str, tuple[int, ...]]
STYLE = "style"  # of a batch, and of a trained style vector
UNGUIDED = 1e-5  # guidance below this computes the conditional velocity alone, as DiffRhythm does


class FlowSizes(Protocol):
    """Sizes of a flow model, as its configuration states them.

    Attributes:
        mel_dim: latent channels.
        text_num_embeds: largest text id.
        max_frames: longest row.
        duration_embedding: `duration` is a condition.
        style_width: length of a style vector.
    """

    @property
    def mel_dim(self) -> int: ...
    @property
    def text_num_embeds(self) -> int: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def duration_embedding(self) -> bool: ...
    @property
    def style_width(self) -> int: ...


def check_style(style: np.ndarray, config: FlowSizes) -> np.ndarray:
    """Copy a style vector, float32 [style width].

    Raises:
        DataError: another shape, or values that are not finite.
    """
    value, width = np.array(style, np.float32), config.style_width
    if value.shape != (width,) or not np.isfinite(value).all():
        raise DataError(f"a style vector has {width} finite values; this one has shape {list(value.shape)}")
    return value


def latents_and_times(x: np.ndarray, time: float | np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Copy noisy latents [B, T, C] and their times [B], float32; a scalar time is that of every row.

    Raises:
        DataError: x does not have the shape of the prepared conditioning.
    """
    latents = np.array(x, np.float32)
    if latents.shape != shape:
        raise DataError(f"x has shape {list(latents.shape)}; this conditioning was prepared for {list(shape)}")
    return latents, np.array(np.broadcast_to(np.asarray(time, np.float32), (len(latents),)))


def _batch_problems(batch: Arrays, needed: Shapes, optional: Shapes, config: FlowSizes) -> list[str]:
    """List arrays that are missing, mis-shaped or out of range."""
    problems = [f"{key} is missing" for key in needed if key not in batch]
    problems += [
        f"{key} has shape {list(np.shape(batch[key]))}, expected {list(shape)}"
        for key, shape in {**needed, **optional}.items()
        if key in batch and np.shape(batch[key]) != shape
    ]
    if "text" in batch and np.size(batch["text"]):
        low, high = int(np.min(batch["text"])), int(np.max(batch["text"]))
        if low < 0 or high > config.text_num_embeds:
            problems.append(f"text goes from {low} to {high}; allowed are 0 to {config.text_num_embeds}")
    return problems


def _condition_shapes(
    batch: Arrays, rows: int, length: int, config: FlowSizes
) -> tuple[dict[str, tuple[int, ...]], Shapes]:
    """Compute the shapes of the required conditions and of the optional ones."""
    needed: dict[str, tuple[int, ...]] = {"start_time": (rows,)}
    if config.duration_embedding:
        needed["duration"] = (rows,)
    style = (rows, config.style_width)
    optional = {
        "cond": (rows, length, config.mel_dim),
        "text": (rows, length),
        "style": style,
        "negative_style": style,
    }
    return needed, optional


def check_flow_batch(batch: Arrays, config: FlowSizes) -> None:
    """Compare a flow batch with the model.

    Raises:
        DataError: rows that are too long, ids out of range, missing arrays or shapes that differ; all at once.
    """
    shape = np.shape(batch.get("latents", ()))
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"a flow batch needs latents [B, T, {config.mel_dim}]; it has shape {list(shape)}")
    rows, length, _ = shape
    whole = (rows, length, config.mel_dim)
    needed, optional = _condition_shapes(batch, rows, length, config)
    needed |= {"latents": whole, "noise": whole, "time": (rows,), "valid": (rows, length)}
    problems = _batch_problems(batch, needed, optional, config) + _length_problems(length, config)
    if "time" in batch and not (np.min(batch["time"]) >= 0 and np.max(batch["time"]) <= 1):
        problems.append(f"time goes from {np.min(batch['time']):g} to {np.max(batch['time']):g}; it lies in [0, 1]")
    if problems:
        raise DataError(f"flow batch: {join_problems(problems)}")


def _length_problems(length: int, config: FlowSizes) -> list[str]:
    if length <= config.max_frames:
        return []
    return [f"rows have {length} frames; this model takes at most {config.max_frames}"]


def count_values(batch: Arrays) -> int:
    """Count the scored latent values: all channels of the valid frames."""
    return int(np.count_nonzero(batch["valid"])) * int(np.shape(batch["latents"])[2])


def _is_set(batch: Arrays, key: str) -> bool:
    return bool(np.asarray(batch.get(key, False)).all())


def _condition_arrays(batch: Arrays, rows: int, length: int, width: int, own_style: bool) -> dict[str, np.ndarray]:
    """Collect the conditions with drops applied; `own` scales the model's own style, which is added to `style`."""
    text = np.zeros((rows, length), np.int32)
    if "text" in batch and not _is_set(batch, "drop_text"):
        text = np.asarray(batch["text"], np.int32)
    style, dropped = np.zeros((rows, width), np.float32), _is_set(batch, "drop_style")
    if "style" in batch and not dropped:
        style = np.asarray(batch["style"], np.float32)
    given = {"text": text, "style": style, "start_time": np.asarray(batch["start_time"], np.float32)}
    if own_style:
        given["own"] = np.asarray(not dropped and "style" not in batch, np.float32)
    if "duration" in batch:
        given["duration"] = np.asarray(batch["duration"], np.float32)
    if "cond" in batch:
        known = np.asarray(batch["cond"], np.float32)
        given["cond"] = np.zeros_like(known) if _is_set(batch, "drop_audio") else known
    return given


def flow_inputs(batch: Arrays, config: FlowSizes, own_style: bool) -> dict[str, np.ndarray]:
    """Collect latents, noise, time, valid (float32, 1 or 0) and the conditions of a batch, with drops applied.

    The same batch always gives the same names, whatever is dropped: a compiled step would be compiled again otherwise.
    """
    rows, length, _ = np.shape(batch["latents"])
    main = {key: np.asarray(batch[key], np.float32) for key in ("latents", "noise", "time", "valid")}
    return main | _condition_arrays(batch, rows, length, config.style_width, own_style)


def conditioning(batch: Arrays, config: FlowSizes, own_style: np.ndarray | None) -> tuple[int, dict[str, np.ndarray]]:
    """Expand a conditioning of B rows to 2 B rows, with and then without conditions; returns B and the arrays.

    Where nothing in it has a length ([B, T] text or [B, T, C] cond), `valid` gives it.

    Raises:
        DataError: no length, or arrays that do not fit; all at once.
    """
    sized = next((np.shape(batch[key]) for key in ("valid", "text", "cond") if key in batch), ())
    if len(sized) < 2 or 0 in sized:
        raise DataError("a conditioning needs valid or text [B, T], or cond [B, T, C], which say how long it is")
    (rows, length), width = sized[:2], config.style_width
    needed, optional = _condition_shapes(batch, rows, length, config)
    problems = _batch_problems(batch, needed, {**optional, "valid": (rows, length)}, config) + _length_problems(
        length, config
    )
    if problems:
        raise DataError(f"conditioning: {join_problems(problems)}")
    if own_style is not None and "style" not in batch:
        batch = {**batch, "style": np.repeat(own_style[None], rows, axis=0)}
    without = {k: v for k, v in batch.items() if k not in ("text", "drop_style", "style")} | {
        "drop_audio": np.ones((), bool)
    }
    without["style"] = batch.get("negative_style", np.zeros((rows, width), np.float32))
    parts = (_condition_arrays(given, rows, length, width, False) for given in (batch, without))
    guided, unguided = parts
    return rows, {key: np.concatenate([guided[key], unguided[key]]) for key in guided}
