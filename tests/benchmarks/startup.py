"""How long `musiclora --help` takes, as a process, beside an empty Python: `python tests/benchmarks/startup.py`."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time


def median_ms(command: list[str], runs: int = 15) -> float:
    """Median wall time of a command in milliseconds, after one run that is not counted."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[1:])


if __name__ == "__main__":
    program = shutil.which("musiclora")
    if program is None:
        sys.exit("musiclora is not installed here")
    empty, full = median_ms([sys.executable, "-c", "pass"]), median_ms([program, "--help"])
    sys.stdout.write(f"python -c pass: {empty:.0f} ms; musiclora --help: {full:.0f} ms\n")
