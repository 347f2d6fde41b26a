"""Run folders: the lock, the state that a later start resumes from, the metrics and the figures."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.errors import TrainingError

STATE, BEST, LAST = "state", "adapter-best", "adapter-last"
MODEL_BEST, MODEL_LAST = "model-best", "model-last"
META, METRICS, CONFIG = "training_meta.json", "metrics.jsonl", "config.toml"


@dataclass
class RunProgress:
    """Progress of a run: everything besides arrays that the loop needs to go on exactly.

    Attributes:
        step: optimiser steps done.
        epoch: the next epoch, or the one under way, from 0.
        index: optimiser steps done in that epoch.
        best: lowest held-out loss so far (nats a token, squared error a latent value), None before the first one.
        best_step: the step it was reached at.
        base: held-out loss before training.
        waited: evaluations since the best.
        seconds: training time of all starts.
        loss, weight: sums over the epoch under way.
        tokens: tokens, or frames of audio, trained on so far.
        ended: why the run ended, empty while it has not.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    best: float | None = None
    best_step: int = 0
    base: float | None = None
    waited: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    weight: float = 0.0
    tokens: float = 0.0
    ended: str = ""


class Run:
    """Run folder, new or with the files of an earlier start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; the operating system frees it when the process dies.

        Raises:
            TrainingError: another live process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            _lock_file(handle)
        except OSError as error:
            handle.close()
            raise TrainingError(f"{self.path}: another process is training in this folder; choose another") from error
        try:
            yield
        finally:
            handle.close()

    def recover(self) -> None:
        """Repair the folder of a killed process: a swap cut in two, temporary files, a start that saved nothing.

        Raises:
            TrainingError: another live process trains here.
        """
        if not (self.path / ".lock").is_file():
            return
        with self.locked():
            for name in (STATE, BEST, LAST, MODEL_BEST, MODEL_LAST):
                for old in sorted(self.path.glob(f".{name}.*.old")):
                    if not (self.path / name).exists():
                        old.rename(self.path / name)
            for left in [*self.path.glob(".*.old"), *self.path.glob(".*.tmp"), *self.path.glob("*.part")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if not self.exists and {p.name for p in self.path.iterdir()} <= {".lock", METRICS, CONFIG, META}:
                for name in (METRICS, CONFIG, META):
                    (self.path / name).unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        return (self.path / STATE / "progress.json").is_file()

    def read_progress(self) -> RunProgress:
        """Read the progress of the state on disk.

        Raises:
            TrainingError: the file cannot be read as one that this version wrote.
        """
        path = self.path / STATE / "progress.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path}: cannot be read ({error}); start again with --restart") from error
        known = {f.name for f in fields(RunProgress)}
        if not isinstance(content, dict) or set(content) != known:
            raise TrainingError(f"{path}: was written by another version; start again with --restart")
        return RunProgress(**content)

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read arrays of the state: `adapter` or `optimizer`."""
        return read_safetensors(self.path / STATE / f"{name}.safetensors")

    def write_state(
        self,
        progress: RunProgress,
        arrays: Mapping[str, Mapping[str, np.ndarray]],
        fill: Callable[[Path], None] | None = None,
    ) -> None:
        """Replace the state folder as a whole; fill(folder) may add files."""
        with atomic_folder(self.path / STATE, overwrite=True) as folder:
            for name, content in arrays.items():
                write_safetensors(folder / f"{name}.safetensors", content)
            if fill is not None:
                fill(folder)
            write_json(folder / "progress.json", asdict(progress))

    def append_metrics(self, **row: float | None) -> None:
        """Add one line to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read all lines of metrics.jsonl, without a last line that a crash cut short."""
        path = self.path / METRICS
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def trim_metrics(self, step: int) -> None:
        """Drop the lines after a step, from which the run goes on."""
        kept = [json.dumps(row) + "\n" for row in self.read_metrics() if row.get("step", 0) <= step]
        if kept or (self.path / METRICS).exists():
            partial = self.path / (METRICS + ".part")
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(self.path / METRICS)

    def set_aside(self) -> Path:
        """Rename the folder to a backup name and return that name."""
        target = self.path.with_name(f"{self.path.name}.backup-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{target.name.split('~')[0]}~{number}")
        self.path.rename(target)
        return target

    def remove_if_nothing_was_saved(self) -> None:
        """Delete a folder in which training failed before its first save."""
        if self.exists or not self.path.is_dir():
            return
        for name in (".lock", METRICS, CONFIG, META):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _lock_file(handle: IO[str]) -> None:
    """Take an exclusive lock without waiting.

    Raises:
        OSError: another process has it.
    """
    if os.name == "nt":  # unverified: there is no Windows machine to try it on
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_writable(path: Path) -> None:
    """Check early that a folder can be made and written at path.

    Raises:
        TrainingError: it is a file, or the nearest existing parent refuses a new file.
    """
    if path.exists() and not path.is_dir():
        raise TrainingError(f"{path}: is a file; --output-dir must be a folder")
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    probe = parent / f".musiclora-{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise TrainingError(f"{parent}: cannot be written ({error.strerror}); choose another --output-dir") from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
