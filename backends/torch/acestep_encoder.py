"""ACE-Step 1.5's condition encoder on torch, in diffusers' class.

Examples of one length are computed together, so that nothing is padded and no padding can reach the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from musiclora.backends import condition_rows
from musiclora.backends.base import ConditionEncoder
from musiclora.backends.loading import needs_package
from musiclora.backends.torch.weight_filling import fill_parameters
from musiclora.convert.models.acestep import AceStepCheckpoint, read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import ENCODER, rename_attention

# Parts of diffusers' class that are the transformer's or the data's, not the encoder's.
_OTHER_PARTS = ("null_condition_emb", "silence_latent")


class TorchConditionEncoder:
    """ACE-Step's condition encoder (implements `backends.base.ConditionEncoder`).

    Args:
        path: model folder in any layout.
        dtype: of the weights and of the computation.
        device: where it runs.

    Attributes:
        width: of a row of the condition.

    Raises:
        BackendError: diffusers is not installed, or has no ACE-Step.
        ConvertError: a folder that does not fit.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        checkpoint = read_acestep(path)
        self.width = checkpoint.config.encoder.hidden
        self._device, self._dtype = device, dtype
        self._network = _empty_network(checkpoint.config)
        fill_parameters(self._network, _tensors(checkpoint), dtype, device, "ACE-Step's condition encoder")

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
        networks = condition_rows.ConditionNetworks(self._lyrics, self._timbre, self._text, self.width)
        return condition_rows.encode_rows(text, text_valid, lyrics, lyrics_valid, references, owners, networks)

    @torch.no_grad()
    def _lyrics(self, rows: np.ndarray) -> np.ndarray:
        mask = torch.ones(rows.shape[:2], dtype=torch.long, device=self._device)
        return _to_numpy(self._network.lyric_encoder(inputs_embeds=self._tensor(rows), attention_mask=mask))

    @torch.no_grad()
    def _timbre(self, rows: np.ndarray) -> np.ndarray:
        apart = torch.arange(len(rows), device=self._device)  # each reference is an example of its own here
        return _to_numpy(self._network.timbre_encoder(self._tensor(rows), apart)[0])

    @torch.no_grad()
    def _text(self, rows: np.ndarray) -> np.ndarray:
        return _to_numpy(self._network.text_projector(self._tensor(rows)))

    def _tensor(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(rows, np.float32)).to(self._device, self._dtype)


def _to_numpy(value: torch.Tensor) -> np.ndarray:
    return np.asarray(value.float().cpu().numpy())


def _tensors(checkpoint: AceStepCheckpoint) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the encoder's tensors under the names of diffusers' class."""
    names = [name for name in tensor_shapes(checkpoint.config) if name.startswith(ENCODER)]
    for name, value in checkpoint.tensors(names):
        yield rename_attention(name.removeprefix(ENCODER)), value


def _empty_network(config: AceStepConfig) -> Any:
    """Build diffusers' network without storage.

    Raises:
        BackendError: diffusers is not installed, or has no ACE-Step.
    """
    try:
        from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
    except ImportError as error:
        raise needs_package("ACE-Step's condition encoder on torch", "diffusers", "acestep", error) from error
    stack = config.encoder
    with torch.device("meta"):
        network: Any = AceStepConditionEncoder(
            hidden_size=stack.hidden,
            intermediate_size=stack.intermediate,
            text_hidden_dim=config.text_dim,
            timbre_hidden_dim=config.latent_dim,
            num_lyric_encoder_hidden_layers=config.lyric_layers,
            num_timbre_encoder_hidden_layers=config.timbre_layers,
            num_attention_heads=stack.heads,
            num_key_value_heads=stack.kv_heads,
            head_dim=stack.head_dim,
            rope_theta=config.rope_theta,
            attention_bias=config.attention_bias,
            rms_norm_eps=config.rms_norm_eps,
            sliding_window=config.sliding_window,
        )
    for name in _OTHER_PARTS:
        delattr(network, name)
    return network.eval()


if TYPE_CHECKING:

    def _as_encoder(encoder: TorchConditionEncoder) -> ConditionEncoder:
        return encoder
