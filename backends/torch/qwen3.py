"""Qwen3 as a text encoder on torch, in transformers' class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from musiclora.backends import condition_rows
from musiclora.backends.base import TextEncoder
from musiclora.backends.loading import needs_package
from musiclora.backends.torch.weight_filling import fill_parameters
from musiclora.convert.models.qwen3 import Qwen3Config, read_qwen3


class TorchQwen3:
    """A Qwen3 checkpoint without its head (implements `backends.base.TextEncoder`).

    Args:
        path: folder with config.json and weights.
        dtype: of the weights and of the computation.
        device: where it runs.

    Attributes:
        width: of a hidden state.

    Raises:
        BackendError: transformers has no Qwen3.
        ConvertError: a folder that does not fit.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        checkpoint = read_qwen3(path)
        self._vocabulary, self.width = checkpoint.config.vocabulary, checkpoint.config.hidden
        self._device = device
        self._network = _empty_network(checkpoint.config)
        fill_parameters(self._network, checkpoint.tensors(), dtype, device, "the text encoder")
        # The table of rotations is no weight: it is computed, in float32.
        self._network.rotary_emb = type(self._network.rotary_emb)(self._network.config).to(device)

    def encode(self, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Compute the last hidden states, float32 [B, L, width]."""
        return condition_rows.encode_texts(ids, valid, self.width, self._vocabulary, self._encode_group)

    @torch.no_grad()
    def _encode_group(self, ids: np.ndarray) -> np.ndarray:
        found = self._network(input_ids=self._tokens(ids), use_cache=False).last_hidden_state
        return np.asarray(found.float().cpu().numpy())

    @torch.no_grad()
    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Look up token embeddings, float32 [B, L, width]."""
        ids = np.asarray(ids)
        condition_rows.check_ids(ids, self._vocabulary)
        return np.asarray(self._network.embed_tokens(self._tokens(ids)).float().cpu().numpy())

    def _tokens(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self._device)


def _empty_network(config: Qwen3Config) -> Any:
    """Build transformers' network without storage.

    Raises:
        BackendError: transformers has no Qwen3.
    """
    try:
        from transformers import Qwen3Config as Settings
        from transformers import Qwen3Model
    except ImportError as error:
        raise needs_package("ACE-Step's text encoder on torch", "transformers", "acestep", error) from error
    settings = Settings(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.rms_norm_eps,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        return Qwen3Model(settings).eval()


if TYPE_CHECKING:

    def _as_encoder(encoder: TorchQwen3) -> TextEncoder:
        return encoder
