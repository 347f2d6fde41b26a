"""Trainings of the page: child processes that outlive it, and what their run folders tell."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.folder_lock import is_locked, lock_holder
from musiclora.convert.files.json_file import NUMBER, TEXT, list_of, object_with, read_optional_json
from musiclora.errors import ConfigError
from musiclora.training.run_folder import CONFIG, META, Run
from musiclora.ui.commands import error_line, log_lines, start_detached
from musiclora.ui.workspace import Workspace

Status = Literal["starting", "training", "stopping", "stopped", "finished", "failed"]

_START_SECONDS = 120.0  # from the start of the process to the lock of its folder, on a slow machine
_LAUNCH_KIND = object_with({"arguments": list_of(TEXT), "process": NUMBER, "started": NUMBER})
_ADVICE = {
    "starting": "starting",
    "training": "training",
    "stopping": "stopping: the state is being saved",
    "stopped": "stopped; Resume goes on from the last saved step",
    "finished": "finished",
    "failed": "failed",
}


@dataclass(frozen=True)
class RunState:
    """What the page shows of one run.

    Attributes:
        status: of its process.
        line: last line of the training, or the message of its failure.
        step: optimiser steps done.
        rows: lines of metrics.jsonl.
        samples: MIDI or WAV files of samples, the base's first.
        result: lines of the result; empty before the end.
        recent: last lines of the log, for a reader who wants more.
    """

    status: Status
    line: str = ""
    step: int = 0
    rows: tuple[Mapping[str, Any], ...] = ()
    samples: tuple[Path, ...] = ()
    result: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """True while a process trains."""
        return self.status in ("starting", "training", "stopping")

    def headline(self) -> str:
        """Describe the state in one line."""
        text = _ADVICE[self.status]
        if not self.line or self.status not in ("starting", "training", "failed"):
            return text
        return self.line if self.line.startswith(text) else f"{text}: {self.line}"


@dataclass(frozen=True)
class Launcher:
    """Starts and stops the trainings of one workspace.

    Attributes:
        workspace: the page's folder.
    """

    workspace: Workspace

    def start(self, folder: Path, arguments: Sequence[str]) -> None:
        """Start `musiclora train ARGUMENTS`, which goes on when the page ends.

        Args:
            folder: its run folder.
            arguments: words after `musiclora train`.

        Raises:
            ConfigError: a process trains there.
        """
        state = self.read(folder)
        if state.is_live:
            raise ConfigError(f"{self.workspace.label(folder)}: a process is training in this folder; stop it first")
        log = self._log(folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        child = start_detached(["train", *arguments], log, self.workspace.root)
        threading.Thread(target=child.wait, daemon=True).start()  # an ended child that nobody waits for looks alive
        facts = {"arguments": list(arguments), "process": child.pid, "started": time.time()}
        write_json(log.with_suffix(".json"), facts)

    def resume(self, folder: Path, more: Sequence[str] = ()) -> None:
        """Start the command of a run again, from its config.toml.

        Args:
            folder: its run folder.
            more: further words, such as `--epochs=40`.

        Raises:
            ConfigError: a process trains there, or the folder holds no run.
        """
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"{self.workspace.label(folder)}: holds no run to resume; train anew")
        label = self.workspace.label(folder)
        self.start(folder, [f"--config={label}/{CONFIG}", f"--output-dir={label}", *more])

    def stop(self, folder: Path) -> None:
        """Ask the process that trains in a folder to save and end.

        Raises:
            ConfigError: none trains there, or it is on another machine.
        """
        holder = lock_holder(folder)
        if holder is None and is_locked(folder):
            label = self.workspace.label(folder)
            raise ConfigError(f"{label}: a process of another machine trains here; stop it there")
        if holder is None:
            holder = self._starting_process(folder)
        if holder is None:
            raise ConfigError(f"{self.workspace.label(folder)}: no process trains here")
        self._stop_file(folder).write_text(str(holder), encoding="utf-8")
        with suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)

    def read(self, folder: Path) -> RunState:
        """Read the state of a run from its folder, its lock and its log."""
        run, log = Run(folder), self._log(folder)
        meta = _read_meta(folder)
        rows = run.read_metrics()
        status = self._status(folder, meta, run)
        line = error_line(log)
        if status == "training" and not line:
            line = f"step {rows[-1].get('step', 0)}" if rows else ""
        return RunState(
            status,
            line,
            int(rows[-1].get("step", 0)) if rows else 0,
            tuple(rows),
            tuple(list_samples(folder)),
            tuple(meta.get("result", ())) if status == "finished" else (),
            tuple(log_lines(log, 12)),
        )

    def _status(self, folder: Path, meta: Mapping[str, Any], run: Run) -> Status:
        if is_locked(folder):
            return "stopping" if self._is_stopping(folder) else "training"
        if self._starting_process(folder) is not None:
            return "starting"
        last = "".join(log_lines(self._log(folder), 1))
        failed = last.startswith("musiclora: ") and not last.startswith("musiclora: stopped")
        if meta.get("ended") and not failed:
            return "finished"
        if failed:
            return "failed"
        return "stopped" if run.exists else "failed"

    def _is_stopping(self, folder: Path) -> bool:
        try:
            return self._stop_file(folder).read_text(encoding="utf-8") == str(lock_holder(folder))
        except OSError:
            return False

    def _starting_process(self, folder: Path) -> int | None:
        """Return the process that was started for a folder shortly before and still runs."""
        facts = self._launch(folder)
        if not facts or time.time() - facts["started"] > _START_SECONDS:
            return None
        process = int(facts["process"])
        try:
            os.kill(process, 0)
        except OSError:
            return None
        return process

    def _launch(self, folder: Path) -> Mapping[str, Any]:
        with suppress(ConvertError):
            return read_optional_json(self._log(folder).with_suffix(".json"), _LAUNCH_KIND)
        return {}

    def _log(self, folder: Path) -> Path:
        return self.workspace.logs / f"{self.workspace.label(folder).replace('/', '__')}.log"

    def _stop_file(self, folder: Path) -> Path:
        return self._log(folder).with_suffix(".stop")


def list_samples(folder: Path) -> list[Path]:
    """List the samples of a run, the base's first; a MIDI file stands for its sound too."""
    found = sorted((folder / "samples").glob("*.mid")) or sorted((folder / "samples").glob("*.wav"))
    return sorted(found, key=lambda path: (path.stem != "base", path.stem))


def _read_meta(folder: Path) -> dict[str, Any]:
    with suppress(ConvertError):
        return read_optional_json(folder / META)
    return {}
