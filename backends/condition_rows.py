"""Packing of padded sequences of conditions, so that no row of padding reaches a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.convert.errors import DataError


def equal_lengths(rows: np.ndarray, valid: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group the examples that have equally many valid rows; groups need neither padding nor mask.

    Args:
        rows: [B, L, D]; rows of padding may hold anything.
        valid: bool [B, L].
        what: name of the rows, for the message.

    Yields:
        Indices of a group's examples int [n], and their valid rows in order [n, l, D]. Examples without a valid row
        are in no group.

    Raises:
        DataError: shapes that do not fit, or valid values that are not finite.
    """
    valid = np.asarray(valid, bool)
    if rows.ndim != 3 or rows.shape[:2] != valid.shape:
        raise DataError(f"{what}: rows {list(rows.shape)} do not fit a mask {list(valid.shape)}")
    if not np.isfinite(rows[valid]).all():
        raise DataError(f"{what}: values are not finite in rows that are no padding")
    counts = valid.sum(axis=1)
    for count in sorted(set(counts.tolist()) - {0}):
        index = np.flatnonzero(counts == count)
        yield index, rows[index][valid[index]].reshape(len(index), count, rows.shape[-1])


def pad_sequences(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack sequences float32 [n, D] of different lengths.

    Returns:
        float32 [B, S, D], zeros after the end of each, and bool [B, S], True in its rows. S is at least 1.
    """
    longest = max(1, *(len(sequence) for sequence in sequences))
    rows = np.zeros((len(sequences), longest, sequences[0].shape[-1]), np.float32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows, np.arange(longest)[None] < np.array([[len(sequence)] for sequence in sequences])


@dataclass(frozen=True)
class ConditionNetworks:
    """The three parts of a condition encoder, each over sequences without padding.

    Attributes:
        lyrics: maps token embeddings float32 [n, l, text_dim] to float32 [n, l, width].
        timbre: maps latents float32 [n, l, C] to float32 [n, 1, width].
        text: maps hidden states float32 [n, l, text_dim] to float32 [n, l, width].
        width: of a row of the condition.
    """

    lyrics: Callable[[np.ndarray], np.ndarray]
    timbre: Callable[[np.ndarray], np.ndarray]
    text: Callable[[np.ndarray], np.ndarray]
    width: int


def encode_rows(
    text: np.ndarray,
    text_valid: np.ndarray,
    lyrics: np.ndarray,
    lyrics_valid: np.ndarray,
    references: np.ndarray,
    owners: np.ndarray,
    networks: ConditionNetworks,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode lyrics, timbre and text of each example to one sequence, in this order.

    Args:
        text: output of the text encoder, float32 [B, L, text_dim].
        text_valid: bool [B, L], False in padding.
        lyrics: token embeddings of the text encoder, float32 [B, M, text_dim].
        lyrics_valid: bool [B, M].
        references: latents of the reference recordings, float32 [R, F, C]; silence where an example has none.
        owners: int [R], the example that each reference belongs to.
        networks: compute examples of one length together.

    Returns:
        Condition float32 [B, S, width], zeros in padding, and its valid rows bool [B, S]. Valid rows come first.

    Raises:
        DataError: shapes that do not fit, owners that do not exist, or valid values that are not finite.
    """
    batch = len(text)
    if len(lyrics) != batch or len(owners) != len(references) or not np.isin(owners, np.arange(batch)).all():
        raise DataError(
            f"conditions: {batch} texts, {len(lyrics)} lyrics and {len(references)} references of the examples "
            f"{np.unique(owners).tolist()} do not fit together"
        )
    parts: list[list[np.ndarray]] = [[np.zeros((0, networks.width), np.float32)] for _ in range(batch)]
    for index, rows in equal_lengths(lyrics, lyrics_valid, "lyrics"):
        _put(parts, index, networks.lyrics(rows))
    for _, rows in equal_lengths(references, np.ones(references.shape[:2], bool), "reference"):
        _put(parts, owners, networks.timbre(rows))
    for index, rows in equal_lengths(text, text_valid, "text"):
        _put(parts, index, networks.text(rows))
    return pad_sequences([np.concatenate(own) for own in parts])


def _put(parts: list[list[np.ndarray]], owners: np.ndarray, found: np.ndarray) -> None:
    """Append each of the sequences [n, l, D] to its owner's."""
    for owner, sequence in zip(owners.tolist(), found, strict=True):
        parts[owner].append(sequence)


def encode_texts(
    ids: np.ndarray, valid: np.ndarray, width: int, vocabulary: int, encode: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Run a text encoder over token ids, examples of one length together.

    Args:
        ids: int [B, L]; padding may hold anything.
        valid: bool [B, L], False in padding.
        width: of the encoder.
        vocabulary: number of its tokens.
        encode: maps ids [n, l] without padding to float32 [n, l, width].

    Returns:
        float32 [B, L, width], zeros in padding.

    Raises:
        DataError: shapes or ids that do not fit.
    """
    ids, valid = np.asarray(ids), np.asarray(valid, bool)
    check_ids(ids, vocabulary, valid)
    found = np.zeros((*ids.shape, width), np.float32)
    for index, rows in equal_lengths(ids[..., None], valid, "text"):
        mask = valid & np.isin(np.arange(len(ids)), index)[:, None]
        found[mask] = encode(rows[..., 0]).reshape(-1, width)
    return found


def check_ids(ids: np.ndarray, vocabulary: int, valid: np.ndarray | None = None) -> None:
    """Check token ids.

    Raises:
        DataError: another shape or dtype, or ids outside the vocabulary.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or (valid is not None and valid.shape != ids.shape):
        mask = "" if valid is None else f" with a mask {list(valid.shape)}"
        raise DataError(f"text: expected integer ids [B, L], found {ids.dtype} {list(ids.shape)}{mask}")
    known = ids if valid is None else ids[valid]
    if known.size and not 0 <= known.min() <= known.max() < vocabulary:
        raise DataError(
            f"text: the ids {known.min()} to {known.max()} do not fit the text encoder, which has {vocabulary} tokens: "
            "its tokenizer is another model's"
        )
