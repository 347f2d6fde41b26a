"""ACE-Step 1.5: sizes and switches of its transformer and its condition encoder."""

from __future__ import annotations

from dataclasses import dataclass

from musiclora.convert.errors import ConvertError, join_problems, show_value

SLIDING, FULL = "sliding_attention", "full_attention"
TIME_FEATURES = 256  # sinusoids of a time embedding
_LARGEST_SIZE = 2**24


@dataclass(frozen=True)
class StackConfig:
    """Sizes of a stack of attention blocks.

    Attributes:
        hidden: width.
        intermediate: width of the MLP.
        heads, kv_heads: query heads, and key and value heads, each shared by heads / kv_heads queries.
        head_dim: width of a head; heads * head_dim need not be `hidden`.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    def attention_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of the projections of one attention."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        keys = {"k_proj": (narrow, self.hidden), "v_proj": (narrow, self.hidden)}
        return {"q_proj": (wide, self.hidden), **keys, "o_proj": (self.hidden, wide)}

    def mlp_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of the projections of one MLP."""
        up = (self.intermediate, self.hidden)
        return {"gate_proj": up, "up_proj": up, "down_proj": (self.hidden, self.intermediate)}


@dataclass(frozen=True)
class AceStepConfig:
    """Sizes and switches of an ACE-Step 1.5 model.

    Attributes:
        decoder: sizes of the transformer's blocks.
        encoder: those of the condition encoder's blocks; narrower than the decoder's in the XL models.
        layer_types: `sliding_attention` or `full_attention` of each block of the transformer.
        lyric_layers, timbre_layers: blocks of the lyric and of the timbre encoder, which alternate likewise, beginning
            with a sliding one.
        text_dim: width of the text encoder's output.
        latent_dim: latent channels; a row of the transformer's input holds source, mask and noisy latents.
        patch_size: latent frames in one row of the transformer.
        sliding_window: rows to each side that a sliding block sees.
        rope_theta: base of the rotary embedding.
        rms_norm_eps: added to mean squares.
        attention_bias: whether attention projections have a bias.
        is_turbo: entry of config.json; see `is_distilled`.
        model_version: such as `turbo`, `base`, `sft`; None where the file does not say.
        timestep_mu, timestep_sigma: of the training times' logit-normal distribution.
        data_proportion: kept as the file has it; None where it does not say.
    """

    decoder: StackConfig
    encoder: StackConfig
    layer_types: tuple[str, ...]
    lyric_layers: int = 8
    timbre_layers: int = 4
    text_dim: int = 1024
    latent_dim: int = 64
    patch_size: int = 2
    sliding_window: int = 128
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    is_turbo: bool = False
    model_version: str | None = None
    timestep_mu: float = -0.4
    timestep_sigma: float = 1.0
    data_proportion: float | None = None

    def __post_init__(self) -> None:
        sizes = {f"decoder.{k}": v for k, v in vars(self.decoder).items()}
        sizes |= {f"encoder.{k}": v for k, v in vars(self.encoder).items()}
        names = ("lyric_layers", "timbre_layers", "text_dim", "latent_dim", "patch_size", "sliding_window")
        sizes |= {name: getattr(self, name) for name in names}
        problems = [
            f"{name} is {show_value(value)}"
            for name, value in sizes.items()
            if type(value) is not int or not 0 < value <= _LARGEST_SIZE
        ]
        if not problems:
            problems += [
                f"{name}: {stack.heads} heads are no multiple of {stack.kv_heads} key heads"
                for name, stack in (("decoder", self.decoder), ("encoder", self.encoder))
                if stack.heads % stack.kv_heads
            ]
            problems += [
                f"{name}: head_dim {stack.head_dim} is odd"
                for name, stack in (("decoder", self.decoder), ("encoder", self.encoder))
                if stack.head_dim % 2
            ]
        if not self.layer_types or any(kind not in (SLIDING, FULL) for kind in self.layer_types):
            problems.append(f"layer_types is {show_value(list(self.layer_types))}")
        if problems:
            raise ConvertError(f"ACE-Step configuration: {join_problems(problems)}")

    @property
    def is_distilled(self) -> bool:
        """Tell whether the model was distilled to few steps without guidance; either entry says it, as in diffusers."""
        return self.is_turbo or self.model_version == "turbo"

    @property
    def in_channels(self) -> int:
        """Channels of a latent frame at the transformer's input: source, mask, noisy latents."""
        return 3 * self.latent_dim

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of every linear layer of the transformer, by its path in it."""
        width = self.decoder.hidden
        shapes: dict[str, tuple[int, int]] = {}
        for i in range(len(self.layer_types)):
            for part in ("self_attn", "cross_attn"):
                shapes |= {f"layers.{i}.{part}.{n}": s for n, s in self.decoder.attention_shapes().items()}
            shapes |= {f"layers.{i}.mlp.{n}": s for n, s in self.decoder.mlp_shapes().items()}
        for embed in ("time_embed", "time_embed_r"):
            shapes |= {f"{embed}.linear_1": (width, TIME_FEATURES), f"{embed}.linear_2": (width, width)}
            shapes[f"{embed}.time_proj"] = (6 * width, width)
        return {**shapes, "condition_embedder": (width, self.encoder.hidden)}


def alternating(layers: int) -> tuple[str, ...]:
    """Return the kinds of blocks where a file does not list them: sliding, full, sliding ..."""
    return tuple(FULL if i % 2 else SLIDING for i in range(layers))
