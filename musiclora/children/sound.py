"""Decoding of sound files in a child process, block by block: the parent sees numbers and float32 arrays only."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from musiclora.children.process import Child, ChildLost

SOUND_WORKER = f"{__name__}:sound_worker"
TIME_LIMIT_SECONDS = 60.0  # for opening a file, and for each block
_MOST_CHANNELS = 1024


class DecodeError(Exception):
    """The file cannot be decoded, or not from here on; the text is the decoder's reason."""


class DecodedFile:
    """Sound file that a child process decodes.

    Attributes:
        rate: in Hz.
        channels: as stored.
        frames: samples per channel by the header, 0 where it gives none.
        container, kind: of the file, such as WAV and PCM_16.
        details: what the decoder tells about the header.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DecodeError: it is no sound that libsndfile reads, or it crashed or stopped the decoder.
            DataError: no child process can start.
        """
        self._child = _take_child()
        try:
            answer = self._ask({"open": str(path.absolute())})
        except DecodeError:
            self.close()
            raise
        try:
            self.rate, self.channels = int(answer["rate"]), int(answer["channels"])
            self.frames = int(answer["frames"])
            self.container, self.kind, self.details = (str(answer[k]) for k in ("container", "kind", "details"))
            if not 0 < self.channels <= _MOST_CHANNELS:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            self._child.kill()
            raise DecodeError("the decoder crashed") from error

    def read(self, count: int) -> np.ndarray:
        """Read the next float32 [n, channels], n at most `count`; none at the end.

        Raises:
            DecodeError: the file is damaged from here on.
        """
        block = self._ask({"read": count}).get("block")
        if not isinstance(block, np.ndarray) or block.dtype != np.float32 or block.ndim != 2:
            self._child.kill()
            raise DecodeError("the decoder crashed")
        return block

    def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._child.ask(task, TIME_LIMIT_SECONDS)
        except ChildLost as error:
            late = f"the decoder took longer than {TIME_LIMIT_SECONDS:g} s"
            raise DecodeError(late if error.late else "the decoder crashed") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise DecodeError(str(answer["error"])[:200] if isinstance(answer, dict) else "the decoder crashed")
        return answer

    def close(self) -> None:
        """Close the file and keep its process for the next one."""
        _keep_child(self._child)

    def __enter__(self) -> DecodedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_spare: list[Child] = []
_lock = threading.Lock()


def _take_child() -> Child:
    with _lock:
        return _spare.pop() if _spare else Child(SOUND_WORKER, None)


def _keep_child(child: Child) -> None:
    with _lock:
        if child not in _spare:
            _spare.append(child)


@atexit.register
def _kill_children() -> None:
    while _spare:
        _spare.pop().kill()


def sound_worker(settings: object) -> Callable[[dict[str, Any]], object]:
    """Build the handler of a child process: `open` a file, which closes the one before, and `read` its blocks."""
    import soundfile

    opened: list[Any] = []

    def answer(task: dict[str, Any]) -> dict[str, Any]:
        try:
            if "open" not in task:
                return {"block": opened[0].read(int(task["read"]), dtype="float32", always_2d=True)}
            while opened:
                opened.pop().close()
            opened.append(soundfile.SoundFile(sound_path(task["open"])))
            return _describe(opened[0])
        except (soundfile.SoundFileError, OSError, TypeError, RuntimeError) as error:
            return {"error": _error_reason(error, Path(str(task.get("open", ""))))}

    return answer


def sound_path(path: str | Path) -> str | bytes:
    """Return a path as soundfile can open it: its own conversion fails for names that are no UTF-8 text."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _describe(file: Any) -> dict[str, Any]:
    return {
        "rate": file.samplerate,
        "channels": file.channels,
        "frames": max(0, file.frames),
        "container": file.format,
        "kind": file.subtype,
        "details": file.extra_info[:100_000],
    }


def _error_reason(error: Exception, path: Path) -> str:
    if isinstance(error, TypeError) or ("not a regular file" in str(error) and path.is_file()):
        return "format not recognised"
    text = (str(getattr(error, "error_string", "")) or str(getattr(error, "strerror", "") or error)).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
