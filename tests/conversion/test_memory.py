"""Peak memory of a conversion, which handles one tensor at a time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CODE = """
import sys
from pathlib import Path
import musiclora.conversion.diffrhythm  # before the measurement
from musiclora.conversion.model import convert_model
def peak():  # kB; getrusage would count the parent's peak, which survives exec
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
convert_model(Path(sys.argv[1]), Path(sys.argv[2]), "mlx")
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_peak_memory_follows_the_largest_tensor_and_not_the_checkpoint(tmp_path: Path) -> None:
    config = DiffRhythmConfig(256, 24, 4, text_dim=32, conv_layers=0, mel_dim=8, text_num_embeds=3)
    shapes = config.tensor_shapes()
    zeros = ((name, np.zeros(shape, np.float32)) for name, shape in shapes.items())
    write_diffrhythm(tmp_path / "hf", config, zeros, "hf", "float32")
    size = (tmp_path / "hf" / "model.safetensors").stat().st_size
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "hf"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        timeout=3600,
    )
    grown = int(done.stdout) * 1024
    assert size > 100e6
    assert grown < 8 * largest + 20e6  # a few copies of one tensor, and what the allocator keeps
