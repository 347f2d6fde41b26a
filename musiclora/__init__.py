"""LoRA fine-tuning of music models on MLX and PyTorch."""

from os import path as _path

__version__ = "0.1.0"

# `python -m` in a checkout puts the repository's root first on sys.path, where this folder hides the installed mapping
# of musiclora.backends and musiclora.convert (see pyproject.toml); they lie beside it.
_root = _path.dirname(_path.dirname(_path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would cost 10 ms here
if _path.isfile(_path.join(_root, "backends", "registry.py")):  # noqa: PTH113, PTH118
    __path__.append(_root)
