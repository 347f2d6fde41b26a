"""Filling of a module that was built without storage, with every tensor proven used and every parameter filled."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from musiclora.convert.errors import ConvertError, join_problems


def fill_parameters(
    module: nn.Module,
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: torch.dtype,
    device: torch.device,
    what: str,
) -> None:
    """Give a module its frozen parameters, one in memory at a time besides the module.

    Args:
        module: on the meta device.
        tensors: (path of the parameter, array).
        dtype: of the parameters.
        device: where they lie.
        what: name of the module, for the message.

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, all at once.
    """
    wanted = {name: tuple(value.shape) for name, value in module.named_parameters()}
    problems = []
    for name, value in tensors:
        shape = wanted.pop(name, None)
        if shape is None:
            problems.append(f"{name} is surplus")
        elif tuple(value.shape) != shape:
            problems.append(f"{name} has shape {list(value.shape)}, expected {list(shape)}")
        else:
            parent, _, leaf = name.rpartition(".")
            array = torch.from_numpy(np.array(value, np.float32)).to(device, dtype)
            module.get_submodule(parent).register_parameter(leaf, nn.Parameter(array, requires_grad=False))
    problems += [f"{name} is missing" for name in wanted]
    if problems:
        raise ConvertError(f"{what}: {join_problems(problems)}")
