"""State dicts in the files of trainers: where they are, and the names that wrappers put around a model's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.torch_file import TorchFile
from musiclora.convert.files.torch_pickle import TensorRef

_STATE_KEYS = ("model_state_dict", "ema_model_state_dict", "state_dict", "model", "module")
# DistributedDataParallel, torch.compile, and modules that hold the model, such as Lightning's.
_WRAPPERS = re.compile(
    r"(?:module\.|_orig_mod\.|cfm\.(?=transformer\.)|autoencoder\.(?=(?:en|de)coder\.)"
    r"|model\.(?=(?:module|_orig_mod|cfm|transformer|lm_head|autoencoder|encoder|decoder)\.))+"
)
# Weight norm of torch.nn.utils.parametrizations, by the names of the older torch.nn.utils.weight_norm.
_WEIGHT_NORM = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}


def find_state_dict(file: TorchFile) -> tuple[str, str]:
    """Find the key of the state dict in a trainer's checkpoint, "" where the file is one itself; add a note."""
    if not isinstance(file.tree, dict):
        return "", ""
    for key in _STATE_KEYS:
        part = file.tree.get(key)
        if isinstance(part, dict) and any(isinstance(value, TensorRef) for value in part.values()):
            others = [str(name) for name, other in file.tree.items() if name != key and isinstance(other, dict)]
            return key, f"{file.path.name}: took {key}, left out {join_problems(others)}" if others else ""
    own = any(isinstance(value, TensorRef) and value.shape for value in file.tree.values())
    parts = [key for key, part in file.tree.items() if isinstance(part, dict) and _holds_matrices(part)]
    # One set of weights under a key of the trainer's own; of several nobody can tell which is meant.
    return (parts[0], "") if len(parts) == 1 and isinstance(parts[0], str) and not own else ("", "")


def _holds_matrices(part: dict[Any, Any]) -> bool:
    """Tell whether an object is a state dict: an optimiser's state holds no matrix under a dotted name."""
    return any(isinstance(v, TensorRef) and len(v.shape) > 1 and "." in str(name) for name, v in part.items())


def state_tensors(file: TorchFile) -> dict[str, TensorRef]:
    """Describe the tensors of a file's state dict."""
    key, _ = find_state_dict(file)
    return file.tensors(file.tree[key] if key else None)


def unwrap_names(stored: Iterable[str], where: str) -> dict[str, str]:
    """Map the model's own names to those in a file, which wrappers and parametrisations change.

    Args:
        stored: names in the file.
        where: the file, for messages.

    Raises:
        ConvertError: two tensors of one name.
    """
    names: dict[str, str] = {}
    doubled = []
    for name in stored:
        plain = _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name
        plain = plain.replace("._orig_mod.", ".")
        for suffix, older in _WEIGHT_NORM.items():
            plain = plain.replace(suffix, older)
        if plain in names:
            doubled.append(f"{name} and {names[plain]} are the same tensor")
        names[plain] = name
    if doubled:
        raise ConvertError(f"{where}: {join_problems(doubled)}")
    return names
