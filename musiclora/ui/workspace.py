"""Folder of the page: where songs, runs and new pieces lie, and which paths may be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musiclora.errors import ConfigError
from musiclora.formats import MUSIC_SUFFIXES, RECORDING_SUFFIXES, expand_home
from musiclora.training.run_folder import CONFIG, META

_MUSIC = {*MUSIC_SUFFIXES, *RECORDING_SUFFIXES}
_DEEPEST = 4  # levels below the page's folder that are searched
_MOST_FOLDERS = 5_000  # folders that are searched
_NAME = re.compile(r"[^\w .()+,-]+")
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "state", "samples", "folds"}


@dataclass(frozen=True)
class Workspace:
    """The one folder that a page works in.

    Attributes:
        root: absolute path of the folder.
    """

    root: Path

    @property
    def songs(self) -> Path:
        """Folder of the song folders that were dropped into the page."""
        return self.root / "songs"

    @property
    def runs(self) -> Path:
        """Folder of the page's runs."""
        return self.root / "runs"

    @property
    def pieces(self) -> Path:
        """Folder of new pieces."""
        return self.root / "pieces"

    @property
    def adapters(self) -> Path:
        """Folder of blended adapters and of fused models."""
        return self.root / "adapters"

    @property
    def logs(self) -> Path:
        """Folder of the page's own files: a log and the command of each training."""
        return self.root / ".musiclora-ui"

    def inside(self, text: str | None, what: str = "folder") -> Path:
        """Return the absolute path of a text that names a place inside the root.

        Args:
            text: a path relative to the root, or an absolute one.
            what: name of the thing, for the message.

        Raises:
            ConfigError: nothing is named, nothing is there, or it lies outside.
        """
        if not text or not str(text).strip():
            raise ConfigError(f"choose a {what} first")
        path = (self.root / expand_home(str(text).strip())).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ConfigError(f"{text}: lies outside the page's folder {self.root}; start musiclora ui --dir with it")
        if not path.exists():
            raise ConfigError(f"{text}: there is no such {what}; it may have been moved or removed")
        return path

    def confine(self, text: str, what: str = "file or folder") -> str:
        """Return a value that may name a place, by its label where it does.

        Args:
            text: a name such as `bundled`, words, or a path.
            what: name of the thing, for the message.

        Raises:
            ConfigError: it is a path outside the root, or one at which nothing is.
        """
        name = text.strip()
        try:
            is_place = name.startswith(("/", "~", "..")) or (self.root / expand_home(name)).exists()
        except (OSError, ValueError):  # words that no path can hold
            is_place = False
        return self.label(self.inside(name, what)) if name and is_place else name

    def new_folder(self, parent: Path, name: str | None, what: str) -> Path:
        """Return the path of a folder inside a parent for a name that a user typed; nothing is made.

        Raises:
            ConfigError: the name is empty, or holds more than a name.
        """
        text = (name or "").strip()
        if not text or text.startswith(".") or _NAME.search(text) or Path(text).name != text:
            raise ConfigError(f"give the {what} a name of letters, digits, spaces, - and _")
        return parent / text

    def label(self, path: Path) -> str:
        """Return a path as the page shows it: relative to the root."""
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix() or "."
        except ValueError:
            return str(path)

    def music_folders(self) -> list[str]:
        """List the folders that hold music, recordings or their caches, by label."""
        found = [folder for folder, files in self._walk() if _holds_music(folder, files)]
        return [self.label(folder) for folder in found]

    def run_folders(self) -> list[str]:
        """List the run folders by label, the latest first."""
        found = [folder for folder, files in self._walk() if META in files and CONFIG in files]
        found.sort(key=lambda folder: -(folder / META).stat().st_mtime)
        return [self.label(folder) for folder in found]

    def adapter_folders(self) -> list[str]:
        """List the adapter folders by label, the latest first."""
        found = [folder for folder, files in self._walk() if "adapter_config.json" in files]
        found.sort(key=lambda folder: -(folder / "adapter_config.json").stat().st_mtime)
        return [self.label(folder) for folder in found]

    def model_folders(self) -> list[str]:
        """List the folders of base models by label."""
        kinds = {"config.json", "adapter_config.json"}
        found = [folder for folder, files in self._walk() if kinds & files == {"config.json"}]
        return [self.label(folder) for folder in found if any(folder.glob("*.safetensors*"))]

    def _walk(self) -> Iterator[tuple[Path, set[str]]]:
        """Yield folders and the names of their files, hidden folders left out."""
        count = 0
        for folder, below, files in os.walk(self.root):
            depth = len(Path(folder).relative_to(self.root).parts)
            below[:] = sorted(d for d in below if not d.startswith(".") and d not in _SKIPPED and ".backup-" not in d)
            if depth >= _DEEPEST:
                below.clear()
            yield Path(folder), set(files)
            count += 1
            if count >= _MOST_FOLDERS:
                return


def _holds_music(folder: Path, files: set[str]) -> bool:
    if META in files or "adapter_config.json" in files:
        return False
    if "index.json" in files and any(name.endswith(".safetensors") for name in files):
        return True
    return any(Path(name).suffix.lower() in _MUSIC for name in files)
