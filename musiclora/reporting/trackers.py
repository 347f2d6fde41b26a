"""Experiment trackers: Trackio, TensorBoard and Weights & Biases behind one small interface."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from musiclora.errors import ConfigError
from musiclora.music.wav import read_wav, write_wav

PROJECT = "musiclora"


@dataclass(frozen=True)
class TrackedRun:
    """A training as a tracker names it.

    Attributes:
        name: name of the run folder.
        key: the same after a resume, another one after --restart.
        folder: the run folder, for trackers that keep files.
        settings: options of the run.
        step: last step that was told before a resume; -1 for a new run.
    """

    name: str
    key: str
    folder: Path
    settings: Mapping[str, Any]
    step: int = -1


class Tracker(Protocol):
    """One run in a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell numbers at an optimiser step."""

    def log_piece(self, step: int, name: str, roll: Path | None, sound: Path | None) -> None:
        """Tell a sample: its picture (PNG) and its sound (WAV), where there are any."""

    def close(self) -> None:
        """Finish the run."""


class _Trackio:
    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        with _quiet():
            self._run = trackio.init(
                project=PROJECT,
                name=run.key,
                config={**run.settings, "folder": run.name},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_piece(self, step: int, name: str, roll: Path | None, sound: Path | None) -> None:
        found: dict[str, Any] = {}
        if roll:
            found[f"samples/{name}/roll"] = self._trackio.Image(roll)
        if sound:
            found[f"samples/{name}/sound"] = self._trackio.Audio(sound)
        self._run.log(found, step=step)

    def close(self) -> None:
        with _quiet():
            self._run.finish()


class _Wandb:
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        with _quiet():
            self._run = wandb.init(
                project=PROJECT,
                name=run.name,
                id=run.key,
                resume="allow",
                dir=run.folder,
                config=dict(run.settings),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_piece(self, step: int, name: str, roll: Path | None, sound: Path | None) -> None:
        found: dict[str, Any] = {}
        if roll:
            found[f"samples/{name}/roll"] = self._wandb.Image(str(roll))
        if sound:
            found[f"samples/{name}/sound"] = self._wandb.Audio(str(sound))
        self._run.log(found, step=step)

    def close(self) -> None:
        with _quiet():
            self._run.finish()


class _TensorBoard:
    """Event files in `tensorboard/` of the run folder, by TensorBoard's own writer, which needs no torch."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        if run.step >= 0:  # values of later steps in earlier files are dropped: those steps are trained again
            restart = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=run.step + 1, session_log=restart))
        lines = "\n".join(f"{key}: {value}" for key, value in run.settings.items())
        if run.step < 0:
            self._write(0, [_text_value(Summary, "settings", lines)])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def log_piece(self, step: int, name: str, roll: Path | None, sound: Path | None) -> None:
        found = []
        if roll:
            image = self._summary.Image(encoded_image_string=roll.read_bytes())
            found.append(self._summary.Value(tag=f"samples/{name}/roll", image=image))
        if sound:
            audio, rate = read_wav(sound)
            content = io.BytesIO()
            write_wav(content, audio, rate, full_scale=32768)
            clip = self._summary.Audio(
                sample_rate=rate,
                num_channels=audio.shape[1],
                length_frames=len(audio),
                encoded_audio_string=content.getvalue(),
                content_type="audio/wav",
            )
            found.append(self._summary.Value(tag=f"samples/{name}/sound", audio=clip))
        self._write(step, found)

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._writer.flush()


def _text_value(summary: Any, tag: str, text: str) -> Any:
    """Return a text as TensorBoard's text plugin stores it: a string tensor."""
    from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    return summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))


_OPENERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "trackio": _Trackio,
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
TRACKERS = tuple(_OPENERS)


def parse_trackers(text: str | None) -> tuple[str, ...]:
    """Split `--report-to`, such as `trackio,tensorboard`.

    Raises:
        ConfigError: a name that is no tracker's.
    """
    names = tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    unknown = [name for name in names if name not in _OPENERS]
    if unknown:
        raise ConfigError(f"--report-to {', '.join(unknown)}: there are {', '.join(_OPENERS)}")
    return names


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        ConfigError: a package is missing.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(f"--report-to {name}: it is not installed: pip install 'musiclora[trackers]'")


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Begin a run in a tracker, or go on with it."""
    return _OPENERS[name](run)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what a tracker prints to stderr: stdout belongs to the command's result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
