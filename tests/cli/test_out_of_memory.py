"""Lack of memory, of any processor and framework, is one line with exit code 2 that names options of the command."""

from __future__ import annotations

import click
import numpy as np
import pytest
from click.testing import CliRunner

from musiclora.cli.common import RootGroup

# Messages as the frameworks word them.
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.2 GiB is free."
)
MPS = "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 384 KB, max allowed: 18.1 GB)."
METAL_LARGE = (
    "[metal::malloc] Attempting to allocate 42949672960 bytes which is greater than the maximum allowed buffer"
)
METAL = "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackError)"
MLX = "[malloc] Unable to allocate 4000000000000000 bytes."
MLX_CUDA = "cudaMallocAsync(&data, size, stream) failed: out of memory"
TORCH_CPU = "[enforce fail at alloc_cpu.cpp:122] err == 0. DefaultCPUAllocator: can't allocate memory"


class OutOfMemoryError(RuntimeError):
    """Stands for torch.cuda.OutOfMemoryError."""


def fail_with(error, *names):
    group = RootGroup("root")

    @group.command()
    @click.option("--batch-size")
    @click.option("--max-seq-len")
    @click.option("--grad-checkpointing/--no-grad-checkpointing")
    def train(**options):
        raise error

    @group.group()
    def convert():
        """Hold commands."""

    @convert.command()
    @click.option("--to")
    def model(**options):
        raise error

    return CliRunner().invoke(group, list(names))


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError(CUDA),
        *(RuntimeError(text) for text in (MPS, METAL_LARGE, METAL, MLX, MLX_CUDA, TORCH_CPU, "std::bad_alloc")),
        MemoryError(),
    ],
    ids=["cuda", "mps", "metal large", "metal", "mlx", "mlx cuda", "torch cpu", "c++", "python"],
)
def test_lack_of_memory_is_one_line_that_says_what_to_lower(error):
    result = fail_with(error, "train")
    assert result.exit_code == 2
    assert "not enough memory" in result.stderr
    assert "try a smaller --batch-size or --max-seq-len, or --grad-checkpointing" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_command_without_such_options_names_none():
    result = fail_with(MemoryError(), "convert", "model")
    assert result.exit_code == 2
    assert "--" not in result.stderr
    assert "close other programs" in result.stderr


def test_the_size_that_was_asked_for_is_told():
    assert "(2 GiB more were asked for)" in fail_with(OutOfMemoryError(CUDA), "train").stderr
    assert "(40.0 GiB more were asked for)" in fail_with(RuntimeError(METAL_LARGE), "train").stderr


def test_an_array_of_numpy_that_is_too_large_counts_too():
    with pytest.raises(MemoryError) as found:
        np.empty(2**57, np.uint8)
    assert fail_with(found.value, "train").exit_code == 2


def test_another_runtime_error_stays_a_fault_of_ours():
    assert fail_with(RuntimeError("shapes do not match"), "train").exit_code == 1
