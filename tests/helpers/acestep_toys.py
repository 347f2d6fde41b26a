"""Small ACE-Step models with random weights, as numpy arrays and as diffusers' own classes."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from require import require

from musiclora.convert.models.acestep import AceStepConfig, read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import StackConfig, alternating
from musiclora.convert.models.acestep_write import ReadTensors, write_acestep

# Heads whose widths do not add up to the hidden size, and a condition encoder narrower than the transformer, as in XL.
SMALL = AceStepConfig(
    StackConfig(24, 40, 4, 2, 8),
    StackConfig(16, 28, 2, 1, 8),
    alternating(3),
    lyric_layers=2,
    timbre_layers=1,
    text_dim=12,
    latent_dim=4,
    sliding_window=3,
    is_turbo=True,
    model_version="turbo",
    timestep_mu=-0.25,
    data_proportion=0.5,
)
EVEN = AceStepConfig(
    StackConfig(64, 128, 4, 2, 16), StackConfig(64, 128, 4, 2, 16), alternating(2), 2, 2, 32, 8, attention_bias=True
)
# Further keys of the original's config.json.
FURTHER = {
    "architectures": ["AceStepConditionGenerationModel"],
    "auto_map": {"AutoModel": "modeling_acestep_v15_turbo.AceStepConditionGenerationModel"},
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "max_position_embeddings": 32768,
    "timbre_fix_frame": 750,
}


def random_tensors(config: AceStepConfig, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """Draw every tensor by its canonical name."""
    rng = np.random.default_rng(seed)
    return {
        name: (0.1 * rng.standard_normal(shape, np.float32)).astype(dtype)
        for name, shape in tensor_shapes(config).items()
    }


def reader(tensors: dict[str, np.ndarray]) -> ReadTensors:
    """Read from a dict."""

    def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, array) for name, array in tensors.items() if name in names)

    return read


def write_random(
    folder: Path, config: AceStepConfig, layout: str, dtype: str = "float32", **more: Any
) -> dict[str, np.ndarray]:
    """Write a random model folder and return its tensors."""
    tensors = random_tensors(config, dtype)
    write_acestep(folder, config, reader(tensors), layout, dtype, other_settings=FURTHER, **more)
    return tensors


def write_original(folder: Path, config: AceStepConfig, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Write a random model as upstream does, with the 5 Hz tokenizer in the weights and the silence in a .pt file."""
    torch = require("torch")
    codes = {
        "tokenizer.quantizer.project_in.weight": np.full((6, 4), 0.5, dtype),
        "detokenizer.layers.0.self_attn.q_proj.weight": np.ones((4, 3), dtype),
    }
    carried = {name: (array.dtype, array.shape) for name, array in codes.items()}
    tensors = random_tensors(config, dtype)
    read = reader(tensors | codes)
    write_acestep(folder, config, read, "hf", dtype, other_settings=FURTHER, carried=carried)
    (folder / "silence_latent.safetensors").unlink()
    silence = torch.from_numpy(tensors["silence_latent"].T.astype(np.float32)[None].copy())
    torch.save(silence.to(getattr(torch, dtype)), folder / "silence_latent.pt")
    return tensors


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare names, dtypes and every bit."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def diffusers_models(config: AceStepConfig, seed: int = 0) -> tuple[Any, Any]:
    """Build diffusers' transformer and condition encoder with random weights and a random silence."""
    torch, module = require("torch"), require("diffusers.pipelines.ace_step.modeling_ace_step")
    transformer_class = require("diffusers").AceStepTransformer1DModel
    torch.manual_seed(seed)
    shared = {
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": config.attention_bias,
        "sliding_window": config.sliding_window,
    }

    def sizes(stack: StackConfig) -> dict[str, Any]:
        return {
            "hidden_size": stack.hidden,
            "intermediate_size": stack.intermediate,
            "num_attention_heads": stack.heads,
            "num_key_value_heads": stack.kv_heads,
            "head_dim": stack.head_dim,
            **shared,
        }

    transformer = transformer_class(
        **sizes(config.decoder),
        num_hidden_layers=len(config.layer_types),
        layer_types=list(config.layer_types),
        in_channels=config.in_channels,
        audio_acoustic_hidden_dim=config.latent_dim,
        patch_size=config.patch_size,
        encoder_hidden_size=config.encoder.hidden,
        is_turbo=config.is_turbo,
        model_version=config.model_version,
    )
    encoder = module.AceStepConditionEncoder(
        **sizes(config.encoder),
        text_hidden_dim=config.text_dim,
        timbre_hidden_dim=config.latent_dim,
        num_lyric_encoder_hidden_layers=config.lyric_layers,
        num_timbre_encoder_hidden_layers=config.timbre_layers,
    )
    encoder.silence_latent.normal_()
    return transformer.eval(), encoder.eval()


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a model folder."""
    return dict(read_acestep(folder).tensors())


def diffusers_codec(latent_dim: int, multiples: tuple[int, ...] = (1, 2, 2, 2, 2)) -> Any:
    """Build diffusers' codec at the rates of ACE-Step, 48,000 samples and 25 frames a second, with random weights."""
    torch, diffusers = require("torch"), require("diffusers")
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the weight norm that diffusers uses
        codec = diffusers.AutoencoderOobleck(
            encoder_hidden_size=2 * latent_dim,
            downsampling_ratios=[2, 4, 4, 6, 10],
            channel_multiples=list(multiples),
            decoder_channels=2 * latent_dim,
            decoder_input_channels=latent_dim,
            audio_channels=2,
            sampling_rate=48000,
        )
    return codec.eval()


def diffusers_pipeline(config: AceStepConfig) -> Any:
    """Build a whole pipeline with random weights: codec at 48 kHz, text encoder, a tokenizer of bytes."""
    diffusers, transformers = require("diffusers"), require("transformers")
    from tokenizers.pre_tokenizers import ByteLevel

    transformer, encoder = diffusers_models(config)
    codec = diffusers_codec(config.latent_dim)
    sizes = {"hidden_size": config.text_dim, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    text = transformers.Qwen3Config(vocab_size=300, num_attention_heads=2, num_key_value_heads=1, **sizes)
    symbols = {symbol: i for i, symbol in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    return diffusers.AceStepPipeline(
        vae=codec,
        text_encoder=transformers.Qwen3Model(text).eval(),
        tokenizer=transformers.Qwen2Tokenizer(vocab=symbols, merges=[]),
        transformer=transformer,
        condition_encoder=encoder,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


def write_upstream_folders(root: Path, config: AceStepConfig, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Write a model with its codec and text encoder beside it, as upstream keeps them; return the model's tensors."""
    pipeline = diffusers_pipeline(config)
    pipeline.vae.save_pretrained(root / "vae")
    pipeline.text_encoder.save_pretrained(root / "Qwen3-Embedding-0.6B")
    pipeline.tokenizer.save_pretrained(root / "Qwen3-Embedding-0.6B")
    tensors = write_original(root / "acestep-v15-turbo", config, dtype)
    (root / "acestep-v15-turbo" / "modeling_acestep_v15_turbo.py").write_text("raise SystemExit\n")
    return tensors
