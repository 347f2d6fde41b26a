"""White-box tests of the MLX backend are left out where MLX is not installed and not required."""

import importlib.util
import os


def _missing() -> bool:
    try:
        return importlib.util.find_spec("mlx.core") is None
    except ModuleNotFoundError:
        return True


if "mlx" not in os.environ.get("MUSICLORA_TEST_BACKENDS", "") and _missing():
    collect_ignore_glob = ["test_*.py"]
