"""Configuration and tensor shapes of the Oobleck VAE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import Shape

_RATES_HZ = {2048: 44100, 1920: 48000}  # of the published codecs, by hop: Stable Audio's and ACE-Step's


def sample_rate_of(strides: Sequence[int]) -> int:
    """Return the sample rate in Hz of the published codec with these strides; 44,100 for others."""
    return _RATES_HZ.get(math.prod(strides), 44100) if all(type(n) is int for n in strides) else 44100


@dataclass(frozen=True)
class OobleckConfig:
    """Sizes of the codec.

    Attributes:
        channels: width of the first stage.
        c_mults: width of each stage divided by channels, from the audio side inwards.
        strides: downsampling factor of each stage; their product is the hop, in samples a frame.
        latent_dim: channels of a latent; the encoder gives mean and scale.
        encoder_latent_dim: output channels of the encoder, twice the latent's.
        audio_channels: 2 for stereo.
        sample_rate: in Hz; weights do not tell it, see `sample_rate_of`.
    """

    channels: int
    c_mults: tuple[int, ...]
    strides: tuple[int, ...]
    latent_dim: int = 64
    encoder_latent_dim: int = 128
    audio_channels: int = 2
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        numbers = (
            self.channels,
            *self.c_mults,
            *self.strides,
            self.latent_dim,
            self.encoder_latent_dim,
            self.audio_channels,
            self.sample_rate,
        )
        if (
            not all(type(n) is int and 0 < n < 2**20 for n in numbers)
            or not 0 < len(self.strides) == len(self.c_mults) < 20
        ):
            raise ConvertError(f"Oobleck configuration: these numbers make no codec: {asdict(self)}")

    @property
    def hop(self) -> int:
        """Hop size in samples a latent frame."""
        return int(np.prod(self.strides))

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> OobleckConfig:
        """Read a config.json of this package or diffusers.

        Raises:
            ConvertError: another architecture, or numbers that make none.
        """
        try:
            if config.get("model_type") == "oobleck":
                names = ("channels", "latent_dim", "encoder_latent_dim", "audio_channels", "sample_rate")
                return cls(
                    c_mults=tuple(config["c_mults"]), strides=tuple(config["strides"]), **{n: config[n] for n in names}
                )
            if config.get("_class_name") == "AutoencoderOobleck":
                multiples, ratios = tuple(config["channel_multiples"]), tuple(config["downsampling_ratios"])
                return cls(
                    config["decoder_channels"],
                    multiples,
                    ratios,
                    config["decoder_input_channels"],
                    config["encoder_hidden_size"],
                    config["audio_channels"],
                    config["sampling_rate"] if "sampling_rate" in config else sample_rate_of(ratios),
                )
        except (KeyError, TypeError) as error:
            raise ConvertError(f"Oobleck configuration: {error} is missing or no number") from error
        raise ConvertError("not Oobleck: model_type is no 'oobleck' and _class_name no 'AutoencoderOobleck'")

    def to_json(self, layout: str) -> dict[str, Any]:
        """Build the config.json of a codec folder.

        Raises:
            ConvertError: sizes that diffusers' configuration cannot hold.
        """
        if layout != "diffusers":
            return {"model_type": "oobleck", **asdict(self)}
        if self.encoder_latent_dim != self.channels:
            raise ConvertError(
                f"diffusers takes the encoder's first width ({self.channels}) and its output's "
                f"({self.encoder_latent_dim}) from one number; it cannot hold this codec"
            )
        return {
            "_class_name": "AutoencoderOobleck",
            "encoder_hidden_size": self.encoder_latent_dim,
            "downsampling_ratios": list(self.strides),
            "channel_multiples": list(self.c_mults),
            "decoder_channels": self.channels,
            "decoder_input_channels": self.latent_dim,
            "audio_channels": self.audio_channels,
            "sampling_rate": self.sample_rate,
        }

    def tensor_shapes(self) -> dict[str, Shape]:
        """Compute the shape of every tensor by stable-audio-tools' names, in torch's layouts, weight norm folded."""
        widths = [self.channels * m for m in (1, *self.c_mults)]
        last = len(self.strides) + 1
        shapes: dict[str, Shape] = {}

        def conv(name: str, out: int, inputs: int, kernel: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inputs, kernel), (out,)

        def snake(name: str, width: int) -> None:
            shapes[f"{name}.alpha"] = shapes[f"{name}.beta"] = (width,)

        def unit(name: str, width: int) -> None:
            snake(f"{name}.layers.0", width)
            conv(f"{name}.layers.1", width, width, 7)
            snake(f"{name}.layers.2", width)
            conv(f"{name}.layers.3", width, width, 1)

        conv("encoder.layers.0", widths[0], self.audio_channels, 7)
        conv("decoder.layers.0", widths[-1], self.latent_dim, 7)
        for i, stride in enumerate(self.strides):
            encoder, decoder = f"encoder.layers.{i + 1}.layers", f"decoder.layers.{last - 1 - i}.layers"
            for k in range(3):
                unit(f"{encoder}.{k}", widths[i])
                unit(f"{decoder}.{k + 2}", widths[i])
            snake(f"{encoder}.3", widths[i])
            conv(f"{encoder}.4", widths[i + 1], widths[i], 2 * stride)
            snake(f"{decoder}.0", widths[i + 1])
            shapes[f"{decoder}.1.weight"] = (widths[i + 1], widths[i], 2 * stride)  # transposed: inputs first
            shapes[f"{decoder}.1.bias"] = (widths[i],)
        snake(f"encoder.layers.{last}", widths[-1])
        conv(f"encoder.layers.{last + 1}", self.encoder_latent_dim, widths[-1], 3)
        snake(f"decoder.layers.{last}", widths[0])
        shapes[f"decoder.layers.{last + 1}.weight"] = (self.audio_channels, widths[0], 7)
        return shapes

    def normed_shapes(self) -> dict[str, Shape]:
        """Compute the shapes with weight norm: weight_g and weight_v in place of weight."""
        shapes: dict[str, Shape] = {}
        for name, shape in self.tensor_shapes().items():
            if name.endswith(".weight"):
                shapes[f"{name}_g"], shapes[f"{name}_v"] = (shape[0], 1, 1), shape
            else:
                shapes[name] = shape
        return shapes
