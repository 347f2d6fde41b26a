"""A tiny audio model with its codec, and recordings of a few seconds, for tests of the whole chain."""

from __future__ import annotations

import zlib

import numpy as np

from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

CODEC = OobleckConfig(4, (1, 2), (32, 64), latent_dim=6, encoder_latent_dim=12)  # a hop of 2048, as the real one
PACE = CODEC.sample_rate / CODEC.hop


def config(**changes):
    settings = {"conv_layers": 1, "mel_dim": CODEC.latent_dim, "text_num_embeds": 20, "max_frames": 40}
    return DiffRhythmConfig(64, 2, 2, **{**settings, **changes})


def _tensors(shapes, gain):
    """Weights from each tensor's name, none zero, so that every part matters."""
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        fan = np.prod(shape[1:]) if len(shape) > 1 else 25
        yield name, (rng.standard_normal(shape) * gain * fan**-0.5 + ("norm.weight" in name)).astype(np.float32)


def write_codec(folder, shape=CODEC):
    write_oobleck(folder, shape, _tensors(shape.tensor_shapes(), 1.0), "hf", "float32")


def write_base(folder, **changes):
    """A model folder with its codec beside the weights."""
    shape = config(**changes)
    write_diffrhythm(folder, shape, _tensors(shape.tensor_shapes(), 0.5), "hf", "float32")
    write_codec(folder / "vae")
    return folder


def tone(seconds, seed, rate=44100):
    """A few harmonics of a random pitch that fades, stereo float32 [n, 2]."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 110 * 2 ** (rng.integers(0, 24) / 12)
    sound = sum(np.sin(2 * np.pi * pitch * k * t + rng.random() * 6) / k for k in (1, 2, 3))
    beat = np.exp(-3 * (t * rng.uniform(1, 4) % 1))
    return np.stack([0.3 * sound * beat, 0.25 * sound * beat[::-1]], 1).astype(np.float32)


def write_recordings(folder, count=5, seconds=2.5):
    """WAV files of different music and slightly different lengths."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        soundfile.write(folder / f"tone-{i}.wav", tone(seconds + 0.3 * i, i), 44100)
    return folder


def write_latents(folder, base, count=6, frames=50, **arrays):
    """Latents of random walks about common levels, of different lengths; arrays: functions of the number."""
    import hashlib
    import json

    from musiclora.audio.model import codec_fingerprint
    from musiclora.convert.files.safetensors_file import write_safetensors

    folder.mkdir(parents=True)
    items = []
    for i in range(count):
        walk = np.random.default_rng(i).standard_normal((frames + 7 * i, CODEC.latent_dim)).cumsum(0)
        # What all have in common can be learnt from few: the level of each channel.
        latents = (0.5 * walk / walk.std() + 2 * np.sin(np.arange(CODEC.latent_dim))).astype(np.float32)
        key = hashlib.sha256(latents.tobytes()).hexdigest()
        write_safetensors(folder / f"{key}.safetensors", {"latents": latents, **{k: f(i) for k, f in arrays.items()}})
        items.append({"source": f"walk-{i}.wav", "sha256": key, "codec": codec_fingerprint(base / "vae")})
    (folder / "index.json").write_text(json.dumps({"format": 1, "items": items}))
    return folder
