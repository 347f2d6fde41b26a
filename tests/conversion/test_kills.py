"""Commands that are killed: whole or not at all, and no litter after the next start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

JOBS = (
    "convert-model:SIGKILL",
    "convert-adapter:SIGKILL",
    "fuse:SIGKILL",
    "augment:SIGKILL",
    *(["cut:SIGKILL"] if find_spec("soundfile") and find_spec("soxr") else []),
    "blend:SIGKILL",
    "blend:SIGTERM",
    "token-cache:SIGKILL",
    "one-file:SIGKILL",
    "one-file:SIGTERM",
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows forks no processes")
def test_a_job_that_is_killed_at_any_point_leaves_all_or_nothing_and_its_next_start_no_litter(tmp_path):
    script = Path(__file__).with_name("kill_points.py")
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path, *JOBS],
        env={**os.environ, **single},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    points = [int(n) for n in re.findall(r"(\d+) points", done.stdout)]
    assert len(points) == len(JOBS)
    assert min(points) > 4
