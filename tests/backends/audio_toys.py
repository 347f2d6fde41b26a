"""Recordings of the original audio model, and small models of ours in other shapes, with batches and adapters."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tolerance import rounding

from musiclora.backends import lora_init
from musiclora.backends.base import AUDIO_TARGETS, FAMILIES
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.models.diffrhythm import CONDITION, HEADS, DiffRhythmConfig, write_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "diffrhythm"
SPEC = LoraSpec(rank=3, alpha=6.0, dropout=0.0, targets=AUDIO_TARGETS)
CONFIGS = {
    # Widths differ everywhere, the phonemes are many, and the filler row is used.
    "rectangular": DiffRhythmConfig(64, 3, 3, conv_layers=2, mel_dim=6, text_num_embeds=20, max_frames=40),
    # No text blocks, hence no position table either.
    "plain-text": DiffRhythmConfig(64, 2, 2, conv_layers=0, mel_dim=5, text_num_embeds=9, max_frames=24),
    "duration": DiffRhythmConfig(
        128, 2, 1, conv_layers=1, mel_dim=7, text_num_embeds=11, max_frames=48, duration_embedding=True
    ),
    "causal": DiffRhythmConfig(64, 2, 2, conv_layers=1, mel_dim=4, text_num_embeds=5, max_frames=32, causal=True),
}


def golden(path: str) -> dict[str, np.ndarray]:
    """One recorded file, by its path below the golden folder without ending."""
    return dict(read_safetensors(GOLDEN / f"{path}.safetensors"))


def random_tensors(config: DiffRhythmConfig) -> dict[str, np.ndarray]:
    """Weights that depend on their names only; none is zero, so that every part matters."""
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        fan = np.prod(shape[1:]) if len(shape) > 1 else 25
        value = rng.standard_normal(shape) * fan**-0.5 + ("norm.weight" in name)
        tensors[name] = value.astype(np.float32)
    return tensors


def flow_batch(config: DiffRhythmConfig, rows: int = 2, length: int = 18, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch with every condition; its second row is half as long."""
    rng = np.random.default_rng(seed)
    whole = (rows, length, config.mel_dim)
    valid = np.ones((rows, length), bool)
    valid[1:, length // 2 :] = False
    batch = {
        "latents": rng.standard_normal(whole, np.float32),
        "noise": rng.standard_normal(whole, np.float32),
        "time": rng.random(rows, np.float32),
        "valid": valid,
        "start_time": rng.random(rows, np.float32),
        "cond": rng.standard_normal(whole, np.float32),
        "text": rng.integers(0, config.text_num_embeds + 1, (rows, length)).astype(np.int32),
        "style": 0.05 * rng.standard_normal((rows, 512), np.float32),
    }
    if config.duration_embedding:
        batch["duration"] = rng.random(rows, np.float32)
    return batch


def conditioning_of(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reduce a batch to the arguments of prepare, with a negative style that is not zero."""
    negative = 0.05 * np.random.default_rng(4).standard_normal(np.shape(batch["style"])).astype(np.float32)
    kept = {key: value for key, value in batch.items() if key not in ("latents", "noise", "time")}
    return {**kept, "negative_style": negative}


def path(config: DiffRhythmConfig, length: int) -> int:
    """Return the number of roundings on the longest path from a batch to velocities, for `tolerance.rounding`."""
    width, text = config.dim, config.text_dim
    words = config.conv_layers * (7 + text + text + 2 * text + length)  # convolution, norm, two products, response norm
    entry = 2 * config.mel_dim + text + 2 * CONDITION + 2 * 31 * width // 16  # the input layer, convolutions
    attention = 2 * width + width // HEADS + 2 * length + width  # norm, q_proj, scores, softmax, values, o_proj
    mlp = 2 * width + config.ff_mult * width + 10  # norm, up_proj, down_proj, activation
    blocks = config.depth * (attention + mlp) + config.depth // 2 * text  # with fusions of the text
    return words + entry + blocks + CONDITION + 2 * width  # modulation, norm, output


def velocity_tolerance(config: DiffRhythmConfig, expected: np.ndarray, guidance: float = 0.0) -> float:
    """Bound the difference of two computations of velocities; guidance w adds w times a difference of two passes."""
    return (1 + 2 * guidance) * rounding(path(config, expected.shape[1]), max(1.0, float(np.abs(expected).max())))


def loss_tolerance(config: DiffRhythmConfig, length: int) -> float:
    """Bound the relative difference of two losses, in which a velocity's error counts twice."""
    return 2 * rounding(path(config, length))


def gradient_tolerance(config: DiffRhythmConfig, tokens: int, length: int, largest: float) -> float:
    """Bound the difference of two gradients: forth and back through the model, and a sum over all frames."""
    return rounding(2 * path(config, length) + tokens, largest)


def codec_path(config: OobleckConfig) -> int:
    """Return the roundings on the longest path through the encoder or the decoder: taps times inputs, summed."""
    shapes = config.tensor_shapes()
    sizes = {part: 0 for part in ("encoder.", "decoder.")}
    for name, shape in shapes.items():
        if len(shape) == 3:
            sizes[name[:8]] += int(np.prod(shape)) // max(shape[0], shape[1])
    return max(sizes.values())


@dataclass
class FlowToy:
    """A backend with one checkpoint folder; every model it gives is loaded again.

    Tests of both architectures use its methods only; `acestep_toy.AceStepToy` has the same ones.

    Attributes:
        spec: adapter of the tests.
        style_keys: what the model's own style replaces in a batch.
        root: put before a module's path, it gives the canonical name.
    """

    backend: Any
    folder: Path
    config: Any

    spec: ClassVar[LoraSpec] = SPEC
    style_keys: ClassVar[tuple[str, ...]] = ("style",)
    root: ClassVar[str] = ""

    def load(self) -> Any:
        return self.backend.load(FAMILIES["audio"], self.folder)

    def tensors(self) -> dict[str, np.ndarray]:
        """What `read_weights` gives of the checkpoint."""
        return random_tensors(self.config)

    def written(self, folder: Path, tensors: dict[str, np.ndarray]) -> FlowToy:
        """The same with other weights."""
        return replace(self, folder=write_toy(folder, self.config, tensors))

    def batch(self, **settings: Any) -> dict[str, np.ndarray]:
        return flow_batch(self.config, **settings)

    def bare(self, **settings: Any) -> dict[str, np.ndarray]:
        """A batch in which the model's own style stands in."""
        return {key: value for key, value in self.batch(**settings).items() if key not in self.style_keys}

    def style(self) -> np.ndarray:
        style: np.ndarray = self.batch()["style"][0]
        return style

    def conditioning(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return conditioning_of(batch)

    def velocity_tolerance(self, expected: np.ndarray, guidance: float) -> float:
        return velocity_tolerance(self.config, expected, guidance)

    def loss_tolerance(self) -> float:
        """Relative."""
        return loss_tolerance(self.config, self.batch()["valid"].shape[1])

    def gradient_tolerance(self, batch: dict[str, np.ndarray], largest: float) -> float:
        return gradient_tolerance(self.config, batch["valid"].size, batch["valid"].shape[1], largest)

    def state(self, spec: LoraSpec | None = None, seed: int = 1) -> dict[str, np.ndarray]:
        """An adapter whose B is not zero, so that it changes the model and every array has a gradient."""
        spec = spec or self.spec
        state = lora_init.initial(spec, self.config.linear_shapes(), seed)
        if spec.dora:
            state = lora_init.with_magnitudes(state, self.tensors().items(), conv1d=False)
        rng = np.random.default_rng(seed)
        return {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in state.items()}

    def adapted(self, spec: LoraSpec | None = None, state: dict[str, np.ndarray] | None = None) -> Any:
        model, spec = self.load(), spec or self.spec
        model.inject_adapter(spec, self.state(spec) if state is None else state)
        return model

    def velocity(self, model: Any, guidance: float = 2.0) -> np.ndarray:
        batch = self.batch()
        return model.velocity(batch["noise"], batch["time"], model.prepare(self.conditioning(batch)), guidance)


def write_toy(folder: Path, config: DiffRhythmConfig, tensors: dict[str, np.ndarray] | None = None) -> Path:
    write_diffrhythm(folder, config, (tensors or random_tensors(config)).items(), "hf", "float32")
    return folder


def assert_adapter_gradients_follow_the_weights(model, gradients):
    """With W + s B A the gradient of B is s G A' and of A it is s B' G, G being that of W.

    Args:
        model: with an adapter, which is fused.
        gradients: called with True for the weights' gradients and False for the adapter's.
    """
    found = gradients(False)
    factors, names, scale = model.read_adapter(), list(model.names), model.spec.scale
    model.fuse()
    whole = gradients(True)
    assert names
    for name in names:
        a, b = factors[f"{name}.lora_A.weight"], factors[f"{name}.lora_B.weight"]
        g = whole[f"{name}.weight"]
        for key, expected in (("A", scale * b.T @ g), ("B", scale * g @ a.T)):
            # rounding of the two ways to the same sum
            close = 1e-4 * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(found[f"{name}.lora_{key}.weight"], expected, rtol=0, atol=close, err_msg=name)
