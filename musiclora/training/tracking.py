"""Rows of metrics.jsonl and samples of a run, passed on to experiment trackers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.json_file import NUMBER, TEXT, list_of, map_of, object_with, read_optional_json
from musiclora.convert.files.temporary import scratch_folder
from musiclora.reporting.trackers import TrackedRun, Tracker, open_tracker, parse_trackers
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import TRACKED, Run

_PATHS = ("data_dir", "output_dir", "model", "tokenizer", "mix_dir", "style", "vae", "adapter_dir")
_RECORD_KIND = object_with({"key": TEXT, "told": map_of(list_of(NUMBER))}, ("key", "told"))


@contextmanager
def tracked(run: Run, config: TrainConfig, say: Callable[[str], None]) -> Iterator[None]:
    """Pass every row that the run records on to the trackers of `--report-to`.

    Args:
        run: the run folder, locked and settled.
        config: options of the run.
        say: tells the user when a tracker fails; the training goes on without it.

    Raises:
        ConfigError: a tracker is not known.
    """
    names = parse_trackers(config.report_to)
    if not names:
        yield
        return
    tracking = Tracking(run, names, public_settings(config), say)
    run.on_row = tracking.pass_on
    try:
        yield
    finally:
        run.on_row = None
        tracking.close()


def public_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the options without the folders that paths lead through, which are nobody's business."""
    return {
        key: Path(value).name if key in _PATHS and isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in config.as_toml().items()
        if key != "report_to"
    }


class Tracking:
    """Trackers of one start of a run; each has its own last step, so that no row is told twice."""

    def __init__(
        self, run: Run, names: tuple[str, ...], settings: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """Prepare the trackers; each begins with the first row.

        Args:
            run: the run folder.
            names: of the trackers.
            settings: options that they show.
            say: tells the user when one fails.
        """
        self._run, self._settings, self._say = run, settings, say
        record: dict[str, Any] = {}
        with suppress(ConvertError):
            record = read_optional_json(run.path / TRACKED, _RECORD_KIND)
        self._key = record.get("key") or f"{run.path.absolute().name}-{secrets.token_hex(3)}"
        self._told_until: dict[str, tuple[int, ...]] = {
            name: tuple(map(int, record.get("told", {}).get(name, (-1,)))) for name in names
        }
        self._trackers: dict[str, Tracker | None] = dict.fromkeys(names)
        self._told = {path.name for path in self._samples()} if record else set[str]()
        self._latest = -1

    def pass_on(self, row: Mapping[str, float]) -> None:
        """Tell the trackers a row, and the samples that are new."""
        step = int(row["step"])
        values = {name: float(value) for name, value in row.items() if name != "step"}
        place = (step, _kind_of(row))
        for name in list(self._trackers):
            if place > self._told_until[name]:  # after a kill, some steps are trained and recorded a second time
                self._call(name, lambda tracker: tracker.log(step, values))
                self._told_until[name] = place
        self._latest = step
        self._pass_samples(step)
        self._remember()

    def close(self) -> None:
        """Tell the last samples, and finish every tracker's run."""
        if self._latest >= 0:
            self._pass_samples(self._latest)
            self._remember()
        for name, tracker in list(self._trackers.items()):
            if tracker is not None:
                self._call(name, lambda tracker: tracker.close())

    def _call(self, name: str, action: Callable[[Tracker], None]) -> None:
        try:
            tracker = self._trackers[name]
            if tracker is None:
                tracker = self._trackers[name] = open_tracker(name, self._named_run(name))
            action(tracker)
        except Exception as error:  # any error of a foreign library: it must not end a training
            del self._trackers[name]
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(f"warning: {name} failed and is told no more ({text}); metrics.jsonl has every row")

    def _named_run(self, name: str) -> TrackedRun:
        path = self._run.path.absolute()
        return TrackedRun(path.name, self._key, path, self._settings, self._told_until[name][0])

    def _samples(self) -> list[Path]:
        folder = self._run.path / "samples"
        found = [*folder.glob("*.mid")]
        return sorted([*found, *(p for p in folder.glob("*.wav") if p.with_suffix(".mid") not in found)])

    def _pass_samples(self, step: int) -> None:
        for path in self._samples():
            if path.name in self._told:
                continue
            self._told.add(path.name)
            sound = path.with_suffix(".wav")
            with scratch_folder() as folder:
                roll = _draw_roll(path, folder / "roll.png") if path.suffix == ".mid" else None
                self._pass_piece(step, path.stem, roll, sound if sound.is_file() else None)

    def _pass_piece(self, step: int, name: str, roll: Path | None, sound: Path | None) -> None:
        for tracker_name in list(self._trackers):
            self._call(tracker_name, lambda tracker: tracker.log_piece(step, name, roll, sound))

    def _remember(self) -> None:
        """Note the last steps in the run folder; a plain write, since a lost note costs a few doubled steps at most."""
        record = json.dumps({"key": self._key, "told": self._told_until})
        (self._run.path / TRACKED).write_text(record, encoding="utf-8")


def _kind_of(row: Mapping[str, float]) -> int:
    """Return the place of a row among those of one step: the step, its evaluation, its look at samples."""
    return 2 if "samples_copied" in row else 1 if "val_loss" in row else 0


def _draw_roll(path: Path, target: Path) -> Path | None:
    """Draw a sample's piano roll; None for one without notes."""
    from symusic import Score

    from musiclora.errors import DataError
    from musiclora.reporting.piano_roll import render_pianoroll

    try:
        render_pianoroll(Score(path), target, path.stem)
    except DataError:
        return None
    return target
