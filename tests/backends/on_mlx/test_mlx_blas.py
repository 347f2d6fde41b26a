"""BLAS that is loaded before MLX, and the reason given when none was."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

STATUS = (
    "import json; from musiclora.backends.mlx import blas; s = blas.status(); print(json.dumps([s.name, s.reason]))"
)


def status_in_a_new_process(code: str = STATUS, **environment: str) -> list[str | None]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a BLAS is loaded on Linux only")
def test_status_names_a_library_or_says_why_there_is_none():
    name, reason = status_in_a_new_process()
    assert (name in ("openblas", "mkl", "torch")) != (reason is not None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a BLAS is loaded on Linux only")
def test_status_is_honest_when_mlx_was_imported_first():
    name, reason = status_in_a_new_process("import mlx.core; " + STATUS)
    assert name is None
    assert reason is not None
    assert "imported before" in reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a BLAS is loaded on Linux only")
def test_status_with_the_switch_off_loads_nothing():
    assert status_in_a_new_process(MUSICLORA_BLAS="off") == [None, "MUSICLORA_BLAS=off"]


def test_status_on_a_mac_loads_nothing():
    name, reason = status_in_a_new_process("import sys; sys.platform = 'darwin'; " + STATUS)
    assert name is None
    assert reason == "MLX brings its own here"


def test_gflops_are_those_of_a_timed_product(monkeypatch):
    from musiclora.backends.mlx import blas

    clock = iter([10.0, 10.5, 20.0, 20.25])  # two products, of which the faster takes a quarter of a second
    monkeypatch.setattr(blas.time, "perf_counter", lambda: next(clock))
    assert blas.gflops(128, repeats=2) == pytest.approx(2 * 128**3 / 0.25 / 1e9)
