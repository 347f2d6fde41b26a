"""Peak memory of converting ACE-Step, which handles one tensor at a time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep

CODE = """
import json, sys
from pathlib import Path
from musiclora.conversion.acestep import convert_acestep  # before the measurement
from musiclora.conversion.protocols import ModelConversion
from musiclora.progress import Reporter
def peak():  # kB; getrusage would count the parent's peak, which survives exec
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
convert_acestep(ModelConversion(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3])), Reporter())
print(peak() - before)
"""
STACK = StackConfig(256, 1024, 4, 2, 64)
CONFIG = AceStepConfig(STACK, STACK, alternating(24), 8, 4, 64)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"to": "diffusers"}, {"to": "mlx"}, {"to": "mlx", "bits": 8}], ids=str)
def test_peak_memory_follows_the_largest_tensor_and_not_the_model(options: dict, tmp_path: Path) -> None:
    shapes = tensor_shapes(CONFIG)
    write_acestep(
        tmp_path / "hf",
        CONFIG,
        lambda names: ((name, np.zeros(shapes[name], np.float32)) for name in names),
        "hf",
        "float32",
    )
    size = (tmp_path / "hf" / "model.safetensors").stat().st_size
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "hf"), str(tmp_path / "out"), json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
        timeout=3600,
    )
    grown = int(done.stdout) * 1024
    assert size > 150e6
    # A few copies of one tensor, what the allocator keeps, and the scales of all quantised matrices.
    scales = size / 32 * 2 if "bits" in options else 0
    assert grown < 8 * largest + 20e6 + scales
