"""Run folders: the lock, the state that a later start resumes from, the metrics and the figures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from musiclora.convert.files.atomic import atomic_folder, atomic_write, new_parents_of, write_json
from musiclora.convert.files.folder_lock import LOCK_FILE, FolderInUseError, drop_lock, take_lock
from musiclora.convert.files.json_file import (
    NULL,
    NUMBER,
    field_kinds,
    map_of,
    object_with,
    parse_json,
    read_json,
    read_optional_json,
)
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.files.temporary import remove_tree
from musiclora.errors import ConvertError, TrainingError

STATE, BEST, LAST = "state", "adapter-best", "adapter-last"
MODEL_BEST, MODEL_LAST = "model-best", "model-last"
_SWAPPED = (STATE, BEST, LAST, MODEL_BEST, MODEL_LAST)
META, METRICS, CONFIG = "training_meta.json", "metrics.jsonl", "config.toml"
TRACKED = "trackers.json"  # last step that each experiment tracker was told
FOLDS = "folds"  # runs of a cross-validation, by number


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
        evaluated: the step of the last evaluation; 0 is that of the base.
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
    evaluated: int = 0

    def describe_evaluation(self, loss: float) -> str:
        """Format the held-out loss of an evaluation, with the best one."""
        best = " (best)" if self.best_step == self.step else f" (best {self.best:.4f})"
        return f"epoch {self.epoch + 1}, step {self.step}: held-out loss {loss:.4f}{best}"


_PROGRESS_KIND = object_with(field_kinds(RunProgress))
_ROW_KIND = map_of(NUMBER | NULL)  # a line of metrics.jsonl


class Run:
    """Run folder, new or with the files of an earlier start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self.on_row: Callable[[Mapping[str, float]], None] | None = None  # told of every row of metrics.jsonl

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; the operating system frees it when the process dies.

        Whatever is decided about the folder is decided inside. A block within a block of the same object shares the
        lock. A folder in which nothing was saved is removed at the end.

        Raises:
            TrainingError: another live process holds it, or the folder holds something else than a run.
        """
        if self._lock is not None:
            yield
            return
        self._refuse_foreign_folder()
        with new_parents_of(self.path):
            self._lock = self._take_lock()
            try:
                yield
            finally:
                self._free_lock()

    def _refuse_foreign_folder(self) -> None:
        ours = self.exists or (self.path / LOCK_FILE).is_file()
        if self.path.is_dir() and not ours and any(self.path.iterdir()):
            raise TrainingError(f"{self.path}: is not empty and holds no run; choose another --output-dir")

    def _take_lock(self) -> IO[str]:
        try:
            return take_lock(self.path)
        except FolderInUseError as error:
            text = f"{self.path}: another process is training in this folder; choose another"
            raise TrainingError(text) from error

    def _free_lock(self) -> None:
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        self._remove_unsaved_files()
        if any(path.name != LOCK_FILE for path in self.path.iterdir()):
            lock.close()  # the file marks the folder as ours
        else:
            drop_lock(self.path, lock)

    def recover(self) -> None:
        """Repair the folder of a killed process: a swap cut in two, temporary files, a start that saved nothing.

        The lock must be held.
        """
        for name in _SWAPPED:
            for old in sorted(self.path.glob(f".{name}.*.old")):
                if not (self.path / name).exists():
                    old.rename(self.path / name)
        for left in [*self.path.glob(".*.old"), *self.path.glob(".*.tmp"), *self.path.glob("*.part")]:
            remove_tree(left)
        self._remove_unsaved_files()

    def _remove_unsaved_files(self) -> None:
        """Remove what a start wrote that ended before its first save; other files, and finished runs, stay."""
        written = {METRICS, CONFIG, META, TRACKED, *_SWAPPED}
        if self.exists or not {path.name for path in self.path.iterdir()} <= {LOCK_FILE, FOLDS, *written}:
            return
        with suppress(ConvertError):
            if read_optional_json(self.path / META).get("steps"):
                return
        for name in written:
            remove_tree(self.path / name)

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
            content = read_json(path, _PROGRESS_KIND)
        except ConvertError as error:
            raise TrainingError(f"{error}; start again with --restart") from error
        if "evaluated" not in content and "index" in content:
            # earlier versions: a state between two epochs was saved right after an evaluation
            content["evaluated"] = 0 if content["index"] else content.get("step", 0)
        if set(content) != {f.name for f in fields(RunProgress)}:
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
        """Add one line to metrics.jsonl; values that are None or not finite, which JSON cannot hold, are left out."""
        known = {k: v for k, v in row.items() if v is not None and math.isfinite(v)}
        with (self.path / METRICS).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(known) + "\n")
        if self.on_row is not None:
            self.on_row(known)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read all lines of metrics.jsonl, without a last line that a crash cut short."""
        path = self.path / METRICS
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with suppress(ConvertError):
                rows.append(parse_json(line, METRICS, _ROW_KIND))
        return rows

    def trim_metrics(self, progress: RunProgress) -> None:
        """Drop the lines after the progress from which the run goes on, and of an evaluation that it does not know."""
        path = self.path / METRICS
        kept = [json.dumps(row) + "\n" for row in self.read_metrics() if _is_known(row, progress)]
        if kept or path.exists():
            atomic_write(path, "".join(kept))

    def set_aside(self) -> Path:
        """Rename the folder to a backup name and return that name; the lock is then the new folder's.

        Raises:
            TrainingError: another process has taken the new folder meanwhile.
        """
        target = self.path.with_name(f"{self.path.name}.backup-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{target.name.split('~')[0]}~{number}")
        old, self._lock = self._lock, None
        try:
            self.path.rename(target)
            self._lock = self._take_lock()
        finally:
            if old is not None:
                old.close()
        return target


def _is_known(row: Mapping[str, Any], progress: RunProgress) -> bool:
    step = row.get("step", 0)
    return step < progress.step or (step == progress.step and ("val_loss" not in row or progress.evaluated == step))
