"""ACE-Step 1.5's condition encoder: lyrics, timbre of reference recordings, and text, one sequence for each example.

Weights are those of `acestep_weights.encoder_weights`. Examples of one length are computed together, so that nothing is
padded and nothing masked.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends import condition_rows
from musiclora.backends.mlx.acestep_attention import mlp, norm, self_attention
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.linear import linear
from musiclora.convert.errors import DataError
from musiclora.convert.models.acestep_config import AceStepConfig, alternating

LYRICS, TIMBRE = "encoder.lyric_encoder", "encoder.timbre_encoder"


def encode_conditions(
    text: np.ndarray,
    text_valid: np.ndarray,
    lyrics: np.ndarray,
    lyrics_valid: np.ndarray,
    references: np.ndarray,
    owners: np.ndarray,
    weights: Weights,
    config: AceStepConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode lyrics, timbre and text of each example to one sequence, in this order.

    Args:
        text: output of the text encoder, float32 [B, L, text_dim].
        text_valid: bool [B, L], False in padding.
        lyrics: token embeddings of the text encoder, float32 [B, M, text_dim].
        lyrics_valid: bool [B, M].
        references: latents of the reference recordings, float32 [R, F, C]; silence where an example has none.
        owners: int [R], the example that each reference belongs to.
        weights: of the condition encoder, under canonical names.
        config: the model's numbers.

    Returns:
        Condition float32 [B, S, encoder hidden], zeros in padding, and its valid rows bool [B, S]. Valid rows come
        first.

    Raises:
        DataError: shapes that do not fit, owners that do not exist, or valid values that are not finite.
    """
    batch = len(text)
    if len(lyrics) != batch or len(owners) != len(references) or not np.isin(owners, np.arange(batch)).all():
        raise DataError(
            f"conditions: {batch} texts, {len(lyrics)} lyrics and {len(references)} references of the examples "
            f"{np.unique(owners).tolist()} do not fit together"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(batch)]
    for index, rows in condition_rows.equal_lengths(lyrics, lyrics_valid, "lyrics"):
        _put(parts, index, encode_sequences(rows, LYRICS, config.lyric_layers, weights, config))
    every = np.ones(references.shape[:2], bool)
    for _, rows in condition_rows.equal_lengths(references, every, "reference"):
        # The first row of a recording stands for the whole of it.
        _put(parts, owners, encode_sequences(rows, TIMBRE, config.timbre_layers, weights, config)[:, :1])
    for index, rows in condition_rows.equal_lengths(text, text_valid, "text"):
        _put(parts, index, _project_text(rows, weights))
    empty = np.zeros((0, config.encoder.hidden), np.float32)
    return condition_rows.pad_sequences([np.concatenate([empty, *own]) for own in parts])


def _put(parts: list[list[np.ndarray]], owners: np.ndarray, found: mx.array) -> None:
    """Append each of the sequences [n, l, D] to its owner's."""
    for owner, sequence in zip(owners.tolist(), np.array(found.astype(mx.float32)), strict=True):
        parts[owner].append(sequence)


def _project_text(rows: np.ndarray, weights: Weights) -> mx.array:
    """Project text [n, l, text_dim] to the encoder's width."""
    weight = weights["encoder.text_projector.weight"]
    return mx.array(rows).astype(weight.dtype) @ weight.T


def encode_sequences(rows: np.ndarray, at: str, layers: int, weights: Weights, config: AceStepConfig) -> mx.array:
    """Run the lyric or the timbre encoder over sequences without padding.

    Args:
        rows: float32 [n, l, text_dim] for lyrics, [n, l, C] for latents.
        at: path of the encoder.
        layers: number of its blocks.
        weights: of the condition encoder.
        config: the model's numbers.

    Returns:
        [n, l, encoder hidden] in the dtype of the weights.
    """
    batch, length, width = rows.shape
    dtype = weights[f"{at}.embed_tokens.bias"].dtype
    x = linear(mx.array(rows).astype(dtype).reshape(-1, width), f"{at}.embed_tokens", weights, None)
    for i, kind in enumerate(alternating(layers)):
        x = _encoder_block(x, f"{at}.layers.{i}", weights, config, batch, kind)
        mx.eval(x)  # one block's temporaries at a time
    return norm(x, f"{at}.norm", weights, config).reshape(batch, length, -1)


def _encoder_block(x: mx.array, at: str, weights: Weights, config: AceStepConfig, batch: int, kind: str) -> mx.array:
    """Apply one block to x [n * l, encoder hidden]."""
    y = norm(x, f"{at}.input_layernorm", weights, config)
    x = x + self_attention(y, f"{at}.self_attn", weights, None, config, config.encoder, batch, kind)
    return x + mlp(norm(x, f"{at}.post_attention_layernorm", weights, config), f"{at}.mlp", weights, None)
