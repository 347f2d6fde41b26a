"""Readers of mutated files: whatever the damage, only our own errors for bad input come out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import acestep_toys as toys
import numpy as np
import pytest
import tomli_w
from json_mutants import mutants, mutate_text

from musiclora.adapters import check_base, find_adapter
from musiclora.audio.latents.store import known_items, read_latents
from musiclora.convert.adapters.kohya import read_kohya
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.fingerprint import read_record, recorded_source
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.diffrhythm import DiffRhythmConfig
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.convert.models.oobleck_config import OobleckConfig
from musiclora.errors import MusicLoraError
from musiclora.formats import read_manifest
from musiclora.models import BaseModel
from musiclora.symbolic.dataset.pieces import Piece, PieceSet, read_token_cache, write_token_cache
from musiclora.symbolic.reading.health import HealthRow
from musiclora.symbolic.reading.provenance import Origin, read_provenance, write_provenance
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer
from musiclora.training.config import resolve_config
from musiclora.training.resume import check_same_run
from musiclora.training.run_folder import Run, RunProgress

MUTATIONS = 200  # of each kind
SIZES = Gpt2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_inner=32)
MODULE = "transformer.h.0.attn.c_attn"
STATE = {
    f"{MODULE}.lora_A.weight": np.ones((2, 8), np.float32),
    f"{MODULE}.lora_B.weight": np.ones((24, 2), np.float32),
}
Case = tuple[Path, Callable[[], object]]


def tokenizer_case(folder: Path) -> Case:
    own_tokenizer().save(folder)
    return folder / "tokenizer.json", lambda: load_tokenizer(folder)


def provenance_case(folder: Path) -> Case:
    write_provenance(folder, {"a__t2.mid": Origin("a", 2, 0.9, False), "a.mid": Origin("a")})
    return folder / "provenance.json", lambda: read_provenance(folder)


def gpt2_case(folder: Path) -> Case:
    write_checkpoint(folder, SIZES, fresh_tensors(SIZES, 1), "hf")
    return folder / "config.json", lambda: read_checkpoint(folder)


def diffrhythm_case(folder: Path) -> Case:
    path = folder / "config.json"
    path.write_text(json.dumps(DiffRhythmConfig(64, 2, 2).to_json()))
    return path, lambda: DiffRhythmConfig.from_json(read_json(path)).tensor_shapes()


def oobleck_case(folder: Path) -> Case:
    path = folder / "config.json"
    path.write_text(json.dumps(OobleckConfig(8, (1, 2), (2, 4)).to_json("hf")))
    return path, lambda: OobleckConfig.from_json(read_json(path)).tensor_shapes()


def diffusers_codec_case(folder: Path) -> Case:
    path = folder / "config.json"
    path.write_text(json.dumps(OobleckConfig(128, (1, 2), (2, 4)).to_json("diffusers")))
    return path, lambda: OobleckConfig.from_json(read_json(path)).tensor_shapes()


def acestep_case(folder: Path) -> Case:
    toys.write_random(folder / "m", toys.SMALL, "hf")
    return folder / "m" / "config.json", lambda: read_acestep(folder / "m")


def acestep_pipeline_case(folder: Path) -> Case:
    toys.write_random(folder / "p", toys.SMALL, "diffusers")
    return folder / "p" / "transformer" / "config.json", lambda: read_acestep(folder / "p")


def peft_case(folder: Path) -> Case:
    spec = LoraSpec(2, 4.0, 0.0, ("c_attn",))
    write_peft(folder, spec, STATE, base_model="owner/base", record={"family": "symbolic"})
    path = folder / "adapter_config.json"
    rich = {"rank_pattern": {".*c_proj": 4}, "alpha_pattern": {r"^h\.0": 8}, "layers_to_transform": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | rich))
    return path, lambda: find_adapter(str(folder))


def mlx_lm_case(folder: Path) -> Case:
    write_mlx_lm(folder / "a", LoraAdapter.from_spec(LoraSpec(2, 4.0, 0.0, ("attn.c_attn",)), STATE, "base"))
    return folder / "a" / "adapter_config.json", lambda: read_mlx_lm(folder / "a")


def record_case(folder: Path) -> Case:
    prints = {"weights": "a" * 64, "config": "b" * 64, "tokenizer": "c" * 64, "source_weights": "d" * 64}
    record = {
        "format": 1,
        "family": "symbolic",
        "base_model": "base",
        "fingerprints": prints,
        "fingerprint": {"weights": "a" * 64},
        "source_fingerprint": prints,
        "metrics": {"loss": 1.5},
    }
    write_peft(folder / "a", LoraSpec(2, 4.0, 0.0, ("c_attn",)), STATE, base_model="owner/base", record=record)
    write_checkpoint(folder / "base", SIZES, fresh_tensors(SIZES, 1), "hf")

    def use() -> None:
        adapter = find_adapter(str(folder / "a"))
        recorded_source(read_record(folder / "a"), "a" * 64)
        check_base(adapter, BaseModel("base", folder / "base", "unknown"), allow_mismatch=True)

    return folder / "a" / "musiclora.json", use


CODEC = SimpleNamespace(sample_rate=44100, hop=2048, latent_channels=4)  # what the reader of an index asks of one


def latents_case(folder: Path) -> Case:
    write_safetensors(folder / f"{'e' * 64}.safetensors", {"latents": np.ones((40, 4), np.float32)})
    item = {"source": "a.wav", "start": 0.0, "end": 2.0, "sha256": "e" * 64, "codec": "f" * 64, "posterior": "mean"}
    (folder / "index.json").write_text(json.dumps({"format": 1, "items": [item | {"seconds": 2.0, "notes": ["x"]}]}))

    def use() -> None:
        known_items(folder, "f" * 64, "mean", CODEC)
        read_latents(folder)

    return folder / "index.json", use


def cache_case(folder: Path) -> Case:
    piece = Piece("a", "a", np.arange(5, dtype=np.int32), 2, pitches=np.array([60, 62], np.int16))
    write_token_cache(folder / "c", PieceSet([piece], [HealthRow("a.mid", 0, "kept", notes=2)]), own_tokenizer())
    return folder / "c" / "tokens.json", lambda: read_token_cache(folder / "c")


def manifest_case(folder: Path) -> Case:
    segments = [{"file": "a-1.wav", "source": "a.wav", "start": 0.0, "end": 10.0, "sha256": "e" * 64}]
    (folder / "manifest.json").write_text(json.dumps({"segments": segments}))
    return folder / "manifest.json", lambda: read_manifest(folder)


def progress_case(folder: Path) -> Case:
    run = Run(folder / "run")
    run.write_state(RunProgress(step=3, best=2.5, base=3.0), {"adapter": STATE})
    return run.path / "state" / "progress.json", run.read_progress


def metadata_case(folder: Path) -> Case:
    run = Run(folder)
    (folder / "training_meta.json").write_text(json.dumps({"data": "e" * 64, "epochs": 3}))
    config = resolve_config({"data_dir": "d", "output_dir": "o", "backend": "mlx"})
    (folder / "config.toml").write_text(tomli_w.dumps({"train": config.as_toml()}))
    return folder / "training_meta.json", lambda: check_same_run(run, config, "mlx", "e" * 64)


def header_case(folder: Path) -> Case:
    """The header alone is mutated; its length before it is kept right."""
    write_safetensors(folder / "w.safetensors", STATE, {"format": "pt", "note": "x"})
    data = (folder / "w.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    (folder / "header.json").write_bytes(data[8 : 8 + size])

    def use() -> None:
        header = (folder / "header.json").read_bytes()
        whole = len(header).to_bytes(8, "little") + header + data[8 + size :]
        (folder / "w.safetensors").write_bytes(whole)
        read_safetensors(folder / "w.safetensors")

    return folder / "header.json", use


def kohya_case(folder: Path) -> Case:
    """Texts in the header of a single file hold our record and settings."""
    module = "transformer_blocks.0.self_attn.q_proj"
    arrays = {
        f"lora_unet_{module.replace('.', '_')}.lora_down.weight": np.ones((2, 8), np.float32),
        f"lora_unet_{module.replace('.', '_')}.lora_up.weight": np.ones((8, 2), np.float32),
    }
    (folder / "record.json").write_text(json.dumps({"family": "audio", "fingerprints": {"weights": "a" * 64}}))

    def use() -> None:
        path = folder / "w.safetensors"
        path.unlink(missing_ok=True)
        write_safetensors(path, arrays, {"musiclora": (folder / "record.json").read_bytes().decode("latin-1")})
        read_kohya(path)

    return folder / "record.json", use


def shards_case(folder: Path) -> Case:
    write_checkpoint(folder, SIZES, fresh_tensors(SIZES, 1), "hf")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = list(read_safetensors(folder / "a.safetensors"))
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}))
    return path, lambda: read_checkpoint(folder)


CASES = (
    *(tokenizer_case, provenance_case, gpt2_case, diffrhythm_case, oobleck_case, diffusers_codec_case, peft_case),
    *(mlx_lm_case, record_case, latents_case, cache_case, manifest_case, progress_case, metadata_case, shards_case),
    *(header_case, kohya_case, acestep_case, acestep_pipeline_case),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removesuffix("_case"))
def test_reader_of_a_mutated_file_raises_our_own_errors_only(case, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    path, read = case(tmp_path)
    original = path.read_text()
    read()
    texts = []
    for number, mutant in enumerate(mutants(len(original), original, MUTATIONS)):
        path.write_bytes(mutant)
        try:
            read()
        except MusicLoraError as error:
            texts.append(str(error))
        except BaseException as error:
            pytest.fail(f"mutant {number}: {type(error).__name__}: {error}: {mutant[:3000]!r}")
    assert len(texts) > MUTATIONS // 10
    assert max(len(text) for text in texts) < 4000
    assert all(text.replace("\n", "").isprintable() for text in texts)


def test_settings_of_mutated_toml_raise_our_own_errors_only(tmp_path):
    path, draw = tmp_path / "run.toml", random.Random(3)
    values = {"data_dir": "d", "output_dir": "o", "epochs": 3, "lr": 1e-4, "target_modules": ["c_attn"], "lora_r": 8}
    original = tomli_w.dumps({"train": values | {"grad_checkpointing": True, "style": "s", "val_split": 0.1}})
    nasty = (
        "nan",
        "inf",
        "-1",
        "[]",
        "[1]",
        "{}",
        "true",
        '"x"',
        "1979-05-27",
        "[" * 3000,
        "9" * 40,
        '"\\u0000"',
        "''",
    )
    refused = longest = 0
    for _ in range(MUTATIONS):
        lines = original.splitlines()
        number = draw.randrange(len(lines))
        lines[number] = f"{lines[number].partition('=')[0]} = {draw.choice(nasty)}"
        mutant = "\n".join(lines).encode() if draw.random() < 0.7 else mutate_text(draw, original)
        path.write_bytes(mutant)
        try:
            resolve_config({}, config_file=path)
        except MusicLoraError as error:
            refused += 1
            longest = max(longest, len(str(error)))
    assert refused > MUTATIONS // 2
    assert longest < 4000
