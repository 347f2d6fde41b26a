"""ACE-Step 1.5's condition encoder: lyrics, timbre of reference recordings, and text, one sequence for each example.

Weights are those of `acestep_weights.encoder_weights`. Examples of one length are computed together, so that nothing is
padded and nothing masked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from musiclora.backends import condition_rows
from musiclora.backends.base import ConditionEncoder
from musiclora.backends.mlx.acestep_attention import mlp, norm, self_attention
from musiclora.backends.mlx.acestep_weights import encoder_weights
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.linear import linear
from musiclora.convert.models.acestep import read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, alternating
from musiclora.convert.models.acestep_names import ENCODER

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
        text, text_valid, lyrics, lyrics_valid, references, owners: see `condition_rows.encode_rows`.
        weights: of the condition encoder, under canonical names.
        config: the model's numbers.

    Returns:
        Condition float32 [B, S, encoder hidden], zeros in padding, and its valid rows bool [B, S]. Valid rows come
        first.

    Raises:
        DataError: shapes that do not fit, owners that do not exist, or valid values that are not finite.
    """
    networks = condition_rows.ConditionNetworks(
        lambda rows: to_numpy(encode_sequences(rows, LYRICS, config.lyric_layers, weights, config)),
        # The first row of a recording stands for the whole of it.
        lambda rows: to_numpy(encode_sequences(rows, TIMBRE, config.timbre_layers, weights, config)[:, :1]),
        lambda rows: to_numpy(_project_text(rows, weights)),
        config.encoder.hidden,
    )
    return condition_rows.encode_rows(text, text_valid, lyrics, lyrics_valid, references, owners, networks)


class MlxConditionEncoder:
    """ACE-Step's condition encoder (implements `backends.base.ConditionEncoder`).

    Args:
        path: model folder in any layout.
        dtype: of the weights and of the computation.

    Attributes:
        width: of a row of the condition.

    Raises:
        ConvertError: a folder that does not fit.
    """

    def __init__(self, path: Path, dtype: mx.Dtype) -> None:
        checkpoint = read_acestep(path)
        self._config = checkpoint.config
        self.width = self._config.encoder.hidden
        self._weights: dict[str, mx.array] = {}
        for name, value in checkpoint.tensors([n for n in tensor_shapes(self._config) if n.startswith(ENCODER)]):
            self._weights |= encoder_weights({name: value}, dtype)  # one by one, so that nothing is held twice

    def encode(
        self,
        text: np.ndarray,
        text_valid: np.ndarray,
        lyrics: np.ndarray,
        lyrics_valid: np.ndarray,
        references: np.ndarray,
        owners: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode lyrics, timbre and text of each example to one sequence."""
        given = (text, text_valid, lyrics, lyrics_valid, references, owners)
        return encode_conditions(*given, self._weights, self._config)


def to_numpy(value: mx.array) -> np.ndarray:
    """Copy an array to numpy, float32."""
    return np.array(value.astype(mx.float32))


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


if TYPE_CHECKING:

    def _as_encoder(encoder: MlxConditionEncoder) -> ConditionEncoder:
        return encoder
