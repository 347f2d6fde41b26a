"""A complete tiny ACE-Step folder, written without any framework: model, codec, text encoder and tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from acestep_toys import FURTHER, reader
from safetensors.numpy import save

from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

STACK = StackConfig(32, 48, 4, 2, 8)
TURBO = AceStepConfig(
    STACK,
    StackConfig(24, 40, 2, 1, 8),
    alternating(2),
    lyric_layers=2,
    timbre_layers=1,
    text_dim=16,
    latent_dim=6,
    sliding_window=4,
    is_turbo=True,
    model_version="turbo",
)
BASE = dataclasses.replace(TURBO, is_turbo=False, model_version="base")
# 25 frames a second.
CODEC = OobleckConfig(12, (1, 2), (24, 80), latent_dim=6, encoder_latent_dim=12, sample_rate=48000)
VOCABULARY, LAYERS, HEADS, KEYS, HEAD = 300, 2, 2, 1, 8  # of the text encoder


def tensor(name: str, shape: tuple[int, ...], gain: float = 0.5) -> np.ndarray:
    """Draw weights from a tensor's name, none zero, so that every part matters."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fan = np.prod(shape[1:]) if len(shape) > 1 else 25
    ones = float(name.endswith("norm.weight"))
    return (rng.standard_normal(shape) * gain * fan**-0.5 + ones).astype(np.float32)


def text_encoder_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of Qwen3's tensors, under the names of its checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (VOCABULARY, width), "norm.weight": (width,)}
    for i in range(LAYERS):
        shapes |= {
            f"layers.{i}.self_attn.q_proj.weight": (HEADS * HEAD, width),
            f"layers.{i}.self_attn.k_proj.weight": (KEYS * HEAD, width),
            f"layers.{i}.self_attn.v_proj.weight": (KEYS * HEAD, width),
            f"layers.{i}.self_attn.o_proj.weight": (width, HEADS * HEAD),
            f"layers.{i}.self_attn.q_norm.weight": (HEAD,),
            f"layers.{i}.self_attn.k_norm.weight": (HEAD,),
            f"layers.{i}.mlp.gate_proj.weight": (2 * width, width),
            f"layers.{i}.mlp.up_proj.weight": (2 * width, width),
            f"layers.{i}.mlp.down_proj.weight": (width, 2 * width),
            f"layers.{i}.input_layernorm.weight": (width,),
            f"layers.{i}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def write_text_encoder(folder: Path, width: int = TURBO.text_dim) -> Path:
    """Write Qwen3 and a tokenizer of bytes into one folder, as upstream keeps them."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HEAD,
        "max_position_embeddings": 4096,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(
        folder / "model.safetensors",
        {name: tensor(f"text.{name}", shape) for name, shape in text_encoder_shapes(width).items()},
        {"format": "pt"},
    )
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes that ends every text with <|endoftext|>, as Qwen3-Embedding's does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    end = "<|endoftext|>"
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(end, special=True)])
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, made.token_to_id(end))]
    )
    made.save(str(folder / "tokenizer.json"))
    # The real one states 31 digits as its longest text; transformers writes such numbers.
    settings = {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 10**30, "pad_token": end, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_model(
    folder: Path,
    config: AceStepConfig = TURBO,
    *,
    layout: str = "hf",
    codec: bool = True,
    text_encoder: bool = True,
    bits: int | None = None,
) -> Path:
    """Write a model folder with all its parts.

    Args:
        folder: new folder.
        config: sizes of the model.
        layout: hf or mlx.
        codec, text_encoder: leave out the part where False.
        bits: quantise to 4 or 8 bits, in the layout mlx.
    """
    tensors = {name: tensor(name, shape) for name, shape in tensor_shapes(config).items()}
    write_acestep(folder, config, reader(tensors), layout, "float32", other_settings=FURTHER, bits=bits)
    if codec:
        shapes = CODEC.tensor_shapes().items()
        write_oobleck(folder / "vae", CODEC, ((n, tensor(f"vae.{n}", s, 0.8)) for n, s in shapes), "hf", "float32")
    if text_encoder:
        write_text_encoder(folder / "text_encoder", config.text_dim)
    return folder


def tone(seconds: float, seed: int, rate: int = 48000) -> np.ndarray:
    """A few harmonics of a random pitch that fades, stereo float32 [n, 2]."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 110 * 2 ** (rng.integers(0, 24) / 12)
    sound = sum(np.sin(2 * np.pi * pitch * k * t + rng.random() * 6) / k for k in (1, 2, 3))
    beat = np.exp(-3 * (t * rng.uniform(1, 4) % 1))
    return np.stack([0.3 * sound * beat, 0.25 * sound * beat[::-1]], 1).astype(np.float32)


def write_recordings(folder: Path, count: int = 4, seconds: float = 2.0) -> Path:
    """Write WAV files of different music with captions beside them; the first has lyrics."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        soundfile.write(folder / f"tone-{i}.wav", tone(seconds + 0.2 * i, i), 48000)
        (folder / f"tone-{i}.txt").write_text(f"a tone with harmonics, number {i}")
    (folder / "tone-0.lyrics.txt").write_text("[Verse]\nla la la\n")
    return folder


def write_latents(folder: Path, model: Path, count: int = 5, frames: int = 50, rows: int | None = 3) -> Path:
    """Write a latents folder of random walks with conditions.

    Args:
        folder: new folder.
        model: whose codec is recorded.
        count: number of recordings.
        frames: of the first; each further one has seven more.
        rows: of the first condition; each further one has one more. None leaves conditions out.
    """
    from musiclora.audio.model import codec_fingerprint

    folder.mkdir(parents=True)
    items = []
    for i in range(count):
        rng = np.random.default_rng(i)
        walk = rng.standard_normal((frames + 7 * i, CODEC.latent_dim)).cumsum(0)
        # What all have in common can be learnt from few: the level of each channel.
        latents = (0.5 * walk / walk.std() + 2 * np.sin(np.arange(CODEC.latent_dim))).astype(np.float32)
        arrays = {"latents": latents}
        if rows is not None:
            arrays["condition"] = rng.standard_normal((rows + i, TURBO.encoder.hidden)).astype(np.float32)
        key = hashlib.sha256(latents.tobytes()).hexdigest()
        write_safetensors(folder / f"{key}.safetensors", arrays)
        items.append({"source": f"walk-{i}.wav", "sha256": key, "codec": codec_fingerprint(model / "vae")})
    (folder / "index.json").write_text(json.dumps({"format": 1, "items": items}))
    return folder


def write_adapter(
    folder: Path, config: AceStepConfig = TURBO, *, rows: int = 0, gain: float = 0.3, **record: Any
) -> Path:
    """Write an adapter of every attention module with random arrays, as a training does.

    Args:
        folder: new folder.
        config: sizes of the base.
        rows: of a condition that was trained with it; 0 for none.
        gain: size of B.
        record: entries of musiclora.json.
    """
    spec, state = LoraSpec(2, 4.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj")), {}
    for module, (out, inputs) in config.linear_shapes().items():
        if module.endswith(spec.targets):
            key_a, key_b = state_keys(module)
            state |= {key_a: tensor(key_a, (2, inputs)), key_b: tensor(key_b, (out, 2), gain)}
    style = {"style": tensor("style", (rows, config.encoder.hidden), config.encoder.hidden**0.5)}
    extra = {"style.safetensors": save(style, {"format": "pt"})} if rows else None
    write_peft(
        folder,
        spec,
        state,
        base_model="",
        task_type="FEATURE_EXTRACTION",
        fan_in_fan_out=False,
        record=record or None,
        extra_files=extra,
    )
    return folder
