"""`musiclora convert` on a machine where neither framework nor its libraries can be imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

# Python runs this at every start, also in the interpreters that the command starts to look for backends.
SITECUSTOMIZE = """
import sys
class Others:
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "mlx", "mlx_lm", "transformers", "peft", "diffusers"}:
            return None
        return next((spec for f in self.finders if (spec := f.find_spec(name, path, target))), None)
sys.meta_path[:] = [Others(list(sys.meta_path))]
"""
GPT2 = Gpt2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, n_inner=128)
AUDIO = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)


def bare(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "musiclora", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_frameworks_are_missing_indeed(work: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import numpy, torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in done.stderr


@pytest.mark.slow
def test_gpt2_its_quantised_form_and_its_adapters_convert(work: Path) -> None:
    write_checkpoint(work / "base", GPT2, fresh_tensors(GPT2, 1), "hf")
    spec = LoraSpec(2, 3.0, 0.0, ("c_attn", "c_proj"))
    shapes = state_shapes(spec, GPT2.linear_shapes())
    write_peft(work / "a", spec, {n: np.ones(s, np.float32) for n, s in shapes.items()}, base_model="base")
    assert "bit for bit" in bare(work, "convert", "model", "base", "mlx", "--to", "mlx")
    assert "bit for bit" in bare(work, "convert", "model", "mlx", "hf", "--to", "hf")
    first, second = (read_safetensors(work / name / "model.safetensors") for name in ("base", "hf"))
    assert all(np.array_equal(first[key], second[key]) for key in {*first, *second})
    assert "no backend" in bare(work, "convert", "model", "base", "q", "--to", "mlx", "--quantize", "4")
    assert "of the update: 0 " in bare(work, "convert", "adapter", "a", "b", "--to", "mlx-lm", "--model", "base")
    assert "written" in bare(work, "fuse", "--adapter-dir", "a", "--output-dir", "fused", "--model", "base")
    assert "exact" in bare(work, "blend", "a:0.5", "a", "both")


@pytest.mark.slow
def test_the_audio_model_and_its_adapters_convert(work: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in AUDIO.tensor_shapes().items()}
    write_diffrhythm(work / "base", AUDIO, tensors.items(), "hf", "float32")
    assert "the same value" in bare(work, "convert", "model", "base/model.safetensors", "mlx", "--to", "mlx")
    spec = LoraSpec(2, 3.0, 0.0, ("q_proj", "down_proj"))
    shapes = state_shapes(spec, AUDIO.linear_shapes())
    state = {n: np.ones(s, np.float32) for n, s in shapes.items()}
    write_peft(work / "a", spec, state, base_model="mlx", task_type=None, fan_in_fan_out=False)
    assert "of the update: 0 " in bare(work, "convert", "adapter", "a", "k.safetensors", "--to", "kohya")
    assert "of the update: 0 " in bare(work, "convert", "adapter", "k.safetensors", "d", "--to", "diffusers")
    assert "written" in bare(work, "fuse", "--adapter-dir", "a", "--output-dir", "fused")
