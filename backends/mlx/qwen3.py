"""Qwen3 as a text encoder on MLX, in mlx-lm's class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from musiclora.backends import condition_rows
from musiclora.backends.base import TextEncoder
from musiclora.backends.loading import needs_package
from musiclora.convert.models.qwen3 import MODEL_TYPE, Qwen3Config, read_qwen3


class MlxQwen3:
    """A Qwen3 checkpoint without its head (implements `backends.base.TextEncoder`).

    Args:
        path: folder with config.json and weights.
        dtype: of the weights and of the computation.

    Attributes:
        width: of a hidden state.

    Raises:
        BackendError: mlx-lm is not installed.
        ConvertError: a folder that does not fit.
    """

    def __init__(self, path: Path, dtype: mx.Dtype) -> None:
        checkpoint = read_qwen3(path)
        self._vocabulary, self.width = checkpoint.config.vocabulary, checkpoint.config.hidden
        self._network = _empty_network(checkpoint.config)
        weights = []
        for name, value in checkpoint.tensors():  # one by one, so that nothing is held twice
            array = mx.array(np.asarray(value, np.float32)).astype(dtype)
            mx.eval(array)
            weights.append((name, array))
        self._network.load_weights(weights, strict=True)

    def encode(self, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Compute the last hidden states, float32 [B, L, width]."""
        return condition_rows.encode_texts(ids, valid, self.width, self._vocabulary, self._encode_group)

    def _encode_group(self, ids: np.ndarray) -> np.ndarray:
        return np.array(self._network(mx.array(ids.astype(np.int32))).astype(mx.float32))

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Look up token embeddings, float32 [B, L, width]."""
        ids = np.asarray(ids)
        condition_rows.check_ids(ids, self._vocabulary)
        return np.array(self._network.embed_tokens(mx.array(ids.astype(np.int32))).astype(mx.float32))


def _empty_network(config: Qwen3Config) -> Any:
    """Build mlx-lm's network; its first weights are never computed, as MLX is lazy.

    Raises:
        BackendError: mlx-lm is not installed, or has no Qwen3.
    """
    try:
        from mlx_lm.models import qwen3
    except ImportError as error:
        raise needs_package("ACE-Step's text encoder on MLX", "mlx_lm", "acestep-mlx", error) from error
    settings = qwen3.ModelArgs(
        model_type=MODEL_TYPE,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        intermediate_size=config.intermediate,
        num_attention_heads=config.heads,
        rms_norm_eps=config.rms_norm_eps,
        vocab_size=config.vocabulary,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=32768,
        rope_theta=config.rope_theta,
        head_dim=config.head_dim,
        tie_word_embeddings=True,
    )
    return qwen3.Qwen3Model(settings)


if TYPE_CHECKING:

    def _as_encoder(encoder: MlxQwen3) -> TextEncoder:
        return encoder
