"""GPT-2 on torch: transformers' module holds the parameters, `functional` computes with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends import token_batches
from musiclora.backends.base import Arrays, GenerationSession, Grammar, OptimSpec, SamplingSpec, TokenModel
from musiclora.backends.torch import lora
from musiclora.backends.torch.adapted import AdaptedModule
from musiclora.backends.torch.functional import (
    ACTIVATION_FUNCTIONS,
    Decoder,
    DecoderBlock,
    Dense,
    Lora,
    Norm,
    head_loss,
    head_losses,
    hidden_states,
)
from musiclora.backends.torch.objectives import TokenObjective
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint

if TYPE_CHECKING:
    from musiclora.backends.torch.training import TorchTraining

_EMBEDDING = "transformer.wte.weight"  # also the output head
_LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def empty_module(config: Gpt2Config) -> nn.Module:
    """Build GPT2LMHeadModel without storage, its dropouts set to 0."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.n_inner,
        activation_function=config.activation_function,
        layer_norm_epsilon=config.layer_norm_epsilon,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        scale_attn_by_inverse_layer_idx=config.scale_attn_by_inverse_layer_idx,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.device("meta"):
        return GPT2LMHeadModel(settings)


class TorchGpt2(AdaptedModule):
    """A GPT-2 checkpoint on one device (implements `backends.base.TokenModel`)."""

    _conv1d = True

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        config = read_checkpoint(folder).config
        super().__init__(empty_module(config), config.linear_shapes(), dtype, device)
        self.folder, self.config = folder, config
        self.vocab_size: int = config.vocab_size
        self.n_positions: int = config.n_positions
        self._untouched = True  # the parameters are still the checkpoint's values, but for the dtype
        self._computed: dict[str, Tensor] = {}
        self._decoder: Decoder | None = None
        self.load_parameters(dtype)

    def load_parameters(self, dtype: torch.dtype) -> None:
        """Fill the module from the checkpoint; every name is proven used and filled."""
        for name, value in read_checkpoint(self.folder).tensors():
            parent, _, leaf = name.rpartition(".")
            tensor = torch.from_numpy(np.array(value, np.float32)).to(self.device, dtype)
            layer = lora.base_layer(self.module, parent)
            layer.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        self.module.get_submodule("lm_head").register_parameter("weight", self.module.get_parameter(_EMBEDDING))
        self.refresh()

    # --- structure ---

    def base_parameters(self) -> dict[str, nn.Parameter]:
        """Return the checkpoint's parameters by canonical name, without the adapter's and the tied head."""
        return {name: value for name, value in super().base_parameters().items() if name != "lm_head.weight"}

    def compute_with(self, tensors: dict[str, Tensor]) -> None:
        """Replace the base parameters of the same names in the forward pass by these tensors."""
        self._computed = tensors
        self.refresh()

    def refresh(self) -> None:
        """Invalidate the gathered weights after parameters were replaced."""
        self._decoder = None

    def decoder(self) -> Decoder:
        """Return the weights in the form that the forward pass reads."""
        if self._decoder is None:
            self._decoder = self._gather_decoder()
        return self._decoder

    def _gather_decoder(self) -> Decoder:
        found: dict[str, Tensor] = {**self.base_parameters(), **self._computed}

        def dense(name: str) -> Dense:
            update = None
            if self.enabled and self.spec is not None and name in self.names:
                update = Lora(*lora.factors(self.module, name), self.spec.scale)
                if self.spec.dora:
                    update = update._replace(magnitude=lora.magnitude(self.module, name))
            return Dense(name, found[f"{name}.weight"], found[f"{name}.bias"], update)

        def norm(name: str) -> Norm:
            return Norm(found[f"{name}.weight"], found[f"{name}.bias"])

        config, blocks = self.config, []
        for i, scale in enumerate(config.attention_scales()):
            at = f"transformer.h.{i}"
            c_attn, attn_proj, c_fc, mlp_proj = (dense(f"{at}.{leaf}") for leaf in _LINEARS)
            norms = norm(f"{at}.ln_1"), norm(f"{at}.ln_2")
            blocks.append(DecoderBlock(norms[0], c_attn, attn_proj, norms[1], c_fc, mlp_proj, scale))
        return Decoder(
            found[_EMBEDDING],
            found["transformer.wpe.weight"],
            tuple(blocks),
            norm("transformer.ln_f"),
            config.n_head,
            config.layer_norm_epsilon,
            ACTIVATION_FUNCTIONS[config.activation_function],
        )

    def fuse(self) -> None:
        """Add the update to the weights and drop the adapter."""
        super().fuse()
        self._untouched = False

    # --- computing ---

    def check(self, batch: Arrays) -> None:
        """Compare a token batch with the model.

        Raises:
            DataError: rows that are too long, ids or positions out of range, shapes that differ; all at once.
        """
        token_batches.check_token_batch(batch, self.vocab_size, self.n_positions)

    def batch_tensors(self, batch: Arrays) -> dict[str, Tensor]:
        """Copy a token batch to the device, checked: tokens, and positions where they are given.

        Raises:
            DataError: the batch does not fit.
        """
        self.check(batch)
        known = ("tokens", "positions")
        return {k: torch.from_numpy(np.array(batch[k])).to(self.device) for k in known if k in batch}

    def _scored(
        self, batch: Arrays, masks: lora.Masks | None = None, checkpointing: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the states [M, d] that predict the scored targets; returns them, the head [V, d] and the targets."""
        scored = np.flatnonzero(np.asarray(batch["loss_mask"], bool).reshape(-1))
        tensors = self.batch_tensors(batch)
        where = torch.from_numpy(scored).to(self.device)
        model = self.decoder()
        tokens = tensors["tokens"]
        hidden = hidden_states(model, tokens, tensors.get("positions"), batch.get("segments"), masks, checkpointing)
        # The hidden state before a scored token predicts it.
        return hidden.index_select(0, where - 1), model.wte, tokens.view(-1).index_select(0, where).long()

    def loss_sum(self, batch: Arrays, masks: lora.Masks | None = None, checkpointing: bool = False) -> Tensor:
        """Sum the loss over scored targets, a float32 scalar with its gradient."""
        return head_loss(*self._scored(batch, masks, checkpointing))

    def weight(self, batch: Arrays) -> float:
        """Count the scored tokens of the batch."""
        return float(token_batches.count_tokens(batch))

    def logits(self, batch: Arrays) -> np.ndarray:
        """Compute next-token logits, float32 [B, L, V]."""
        tensors = self.batch_tensors(batch)
        with torch.inference_mode():
            model = self.decoder()
            hidden = hidden_states(model, tensors["tokens"], tensors.get("positions"), batch.get("segments"))
            found: np.ndarray = torch.mm(hidden, model.wte.t()).float().cpu().numpy()
        return found.reshape(*tensors["tokens"].shape, self.vocab_size)

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> TorchTraining:
        """Create a trainer of the adapter or of all base weights."""
        from musiclora.backends.torch.training import TorchTraining

        self.need_trainable(trainable)
        everything = trainable == "all"
        if not everything or self.dtype == torch.float32:
            return TorchTraining(TokenObjective(self, everything), optim)
        self.restore_precision()
        return TorchTraining(TokenObjective(self, everything), optim, self.compute_with)

    def restore_precision(self) -> None:
        """Restore the base parameters to float32, from the checkpoint where they have not been changed."""
        if self._untouched:
            self.load_parameters(torch.float32)
        else:
            self.module.float()
        self._untouched = False
        self.refresh()

    def token_losses(self, batch: Arrays) -> np.ndarray:
        """Compute the cross-entropy of each scored target in nats, float32 [B, L]; 0 elsewhere."""
        found = np.zeros(np.shape(batch["tokens"]), np.float32)
        with torch.inference_mode():
            found[np.asarray(batch["loss_mask"], bool)] = head_losses(*self._scored(batch)).cpu().numpy()
        return found

    def start_generation(self, batch: int, capacity: int, spec: SamplingSpec) -> GenerationSession:
        """Start a session of empty rows; see `backends.base.TokenModel`."""
        from musiclora.backends.torch.generation import TorchSession

        return TorchSession(self.decoder(), batch, capacity, spec)

    def generate(
        self,
        prompts: np.ndarray,
        spec: SamplingSpec,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Continue prompts; see `backends.base.TokenModel`."""
        from musiclora.backends.torch.generation import generate

        return generate(self.decoder(), prompts, spec, uniforms, grammar, on_tokens)


if TYPE_CHECKING:
    _: type[TokenModel] = TorchGpt2
