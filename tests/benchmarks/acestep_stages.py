"""Peak memory of each stage of ACE-Step's preprocess and of decoding, with random weights of full size.

    python tests/benchmarks/acestep_stages.py [--backend mlx|torch] [--seconds 30] [--quick]

codec: a recording in blocks as `preprocess` encodes it. text: Qwen3 of 0.6 billion parameters over eight prompts of 256
tokens. conditions: lyric and timbre encoder over four songs with 500 tokens of lyrics. decode: latents to sound, in
chunks as `generate` does. Each stage runs in a process of its own, whose peak resident size is printed, with the
interpreter and the framework (on Linux). The folder needs 4 GB on the disk for a moment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import acestep_folder

from musiclora.audio.files.writing import decode_latents
from musiclora.backends import registry
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

STAGES = ("codec", "text", "conditions", "decode")
STACK, QUICK = StackConfig(2048, 6144, 16, 8, 128), StackConfig(64, 128, 4, 2, 16)
CODEC = OobleckConfig(128, (1, 2, 4, 8, 16), (2, 4, 4, 6, 10), sample_rate=48000)
QWEN = {
    "vocab_size": 151_669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one tensor in bfloat16."""
    value: np.ndarray = acestep_folder.tensor(name, shape, 0.3).astype(ml_dtypes.bfloat16)
    return value


def write_text_encoder(folder: Path, quick: bool) -> None:
    """Write Qwen3 in bfloat16."""
    sizes = dict(QWEN)
    if quick:
        sizes |= {"vocab_size": 1000, "num_hidden_layers": 2}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "rope_theta": 1e6, **sizes}))
    width, head = sizes["hidden_size"], sizes["head_dim"]
    heads, keys = sizes["num_attention_heads"] * head, sizes["num_key_value_heads"] * head
    block = {
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, heads),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (sizes["intermediate_size"], width),
        "mlp.up_proj": (sizes["intermediate_size"], width),
        "mlp.down_proj": (width, sizes["intermediate_size"]),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (sizes["vocab_size"], width), "norm.weight": (width,)}
    for i in range(sizes["num_hidden_layers"]):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in block.items()}
    arrays = {name: random(name, shape) for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})


def build(folder: Path, quick: bool) -> None:
    """Write codec, text encoder and condition encoder of full size, with a transformer of one block."""
    stack = QUICK if quick else STACK
    config = AceStepConfig(stack, stack, alternating(1), text_dim=1024)
    shapes = tensor_shapes(config)

    def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, random(name, shapes[name])) for name in names)

    write_acestep(folder, config, read, "hf", "bfloat16")
    codec = acestep_folder.CODEC if quick else CODEC
    tensors: Mapping[str, tuple[int, ...]] = codec.tensor_shapes()
    write_oobleck(
        folder / "vae", codec, ((n, acestep_folder.tensor(n, s, 0.5)) for n, s in tensors.items()), "hf", "float32"
    )
    write_text_encoder(folder / "text_encoder", quick)


def work(stage: str, backend: Any, folder: Path, seconds: float) -> Callable[[], Any]:
    """Load a stage; return what it does."""
    rng = np.random.default_rng(0)
    if stage in ("codec", "decode"):
        codec = backend.load_codec(folder / "vae")
        if stage == "codec":
            sound = rng.standard_normal((1, 2, round(seconds * codec.sample_rate)), np.float32) * np.float32(0.1)
            return lambda: codec.encode(sound)
        latents = rng.standard_normal((int(seconds * codec.sample_rate / codec.hop), codec.latent_channels), np.float32)
        return lambda: decode_latents(codec, latents)
    if stage == "text":
        encoder = backend.load_text_encoder(folder / "text_encoder")
        ids = rng.integers(0, 900, (8, 256)).astype(np.int32)
        return lambda: encoder.encode(ids, np.ones(ids.shape, bool))
    conditions = backend.load_condition_encoder(folder)
    text, lyrics = (rng.standard_normal((4, n, 1024), np.float32) for n in (120, 500))
    silence = rng.standard_normal((4, 750, conditions_channels(folder)), np.float32)
    valid = [np.ones(part.shape[:2], bool) for part in (text, lyrics)]
    return lambda: conditions.encode(text, valid[0], lyrics, valid[1], silence, np.arange(4))


def conditions_channels(folder: Path) -> int:
    """Return the channels of the model's latents."""
    from musiclora.convert.models.acestep import read_acestep

    return read_acestep(folder).config.latent_dim


def worker(stage: str, name: str, folder: Path, seconds: float) -> None:
    run = work(stage, registry.get_backend(name), folder, seconds)
    start = time.perf_counter()
    run()
    spent = time.perf_counter() - start
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    print(json.dumps({"stage": stage, "backend": name, "peak_gb": round(peak, 2), "seconds": round(spent, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=registry.BACKENDS, help="one backend; both without")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], options.backend, Path(options.worker[1]), options.seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        build(folder, options.quick)
        for backend in [options.backend] if options.backend else list(registry.BACKENDS):
            for stage in STAGES:
                command = [sys.executable, __file__, "--backend", backend, "--seconds", str(options.seconds)]
                subprocess.run([*command, "--worker", stage, str(folder)], check=True)


if __name__ == "__main__":
    main()
