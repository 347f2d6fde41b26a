"""`generate --watch`: continues each MIDI file that is dropped into a folder, with a model that is loaded once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from musiclora.convert.files.outputs import check_writable
from musiclora.errors import ConfigError, MusicLoraError
from musiclora.formats import BASE_MARK, MUSIC_SUFFIXES
from musiclora.generation_result import GenerationSetup, check_comparison
from musiclora.progress import Reporter
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.generate import SongGenerator, split_options
from musiclora.symbolic.given_music import GivenMusic
from musiclora.symbolic.model import open_model

POLL_SECONDS = 0.25
Facts = tuple[int, int]  # size in bytes and time of the last change in ns


def watch_from_options(
    folder: Path,
    output_dir: Path,
    options: Mapping[str, Any],
    say: Callable[[str], None],
    goes_on: Callable[[], bool] = lambda: True,
    **setup: Unpack[GenerationSetup],
) -> None:
    """Continue every file that appears in a folder, until `goes_on` returns False or Ctrl-C.

    A file that cannot be read or continued is named in one line, and the next one is waited for. Files that are there
    at the start are left alone.

    Args:
        folder: where files are dropped.
        output_dir: where the pieces are written, under names that no file has.
        options: options of the pieces by parameter name.
        say: told each line of a result.
        goes_on: asked before each look at the folder.
        setup: model, adapters, backend and the rest that each generation shares.

    Raises:
        MusicLoraError: the folders, the options or the model do not fit.
    """
    request, given, own = split_options(options)
    _check_watch(folder, output_dir, given)
    out = setup.get("reporter") or Reporter()
    compare, adapters = setup.get("compare", False), setup.get("adapters", ())
    check_comparison(compare, adapters)
    opened = open_model(
        setup.get("model"),
        adapters,
        setup.get("backend", "auto"),
        tokenizer=own.pop("tokenizer", None),
        allow_base_mismatch=setup.get("allow_base_mismatch", False),
    )
    avoids = own.get("avoid_copying", False)
    generator = SongGenerator(opened, out, own.get("train_dir"), avoid_copying=avoids, compare=compare)
    for note in opened.notes:
        say(note)
    there = _music_facts(folder)
    say(f"watching {folder}: drop a MIDI, MusicXML or ABC file; Ctrl-C ends{_count_of(there)}")
    for dropped in dropped_files(folder, there, goes_on):
        try:
            _continue_file(generator, dropped, output_dir, request, given, say)
        except MusicLoraError as error:
            say(f"{dropped.name}: {error}")


def _continue_file(
    generator: SongGenerator,
    dropped: Path,
    output_dir: Path,
    request: GenerationRequest,
    given: GivenMusic,
    say: Callable[[str], None],
) -> None:
    started = time.monotonic()
    given = dataclasses.replace(given, prompt=dropped)
    request, found = given.add_to(request)
    output_dir.mkdir(parents=True, exist_ok=True)
    result = generator.write(free_names(output_dir, dropped.stem, request.count), request, given)
    for line in (*found, *result.notes):
        say(f"{dropped.name}: {line}")
    for file in result.files:
        say(file.line())
    say(f"{dropped.name}: continued in {time.monotonic() - started:.1f} s")


def dropped_files(folder: Path, known: dict[Path, Facts], goes_on: Callable[[], bool]) -> Iterator[Path]:
    """Yield files that are new or changed, once they are written to the end.

    A file is complete when two looks find the same size and time, and it is not empty.

    Args:
        folder: the folder.
        known: files that are not yielded unless they change; the yielded ones are added.
        goes_on: asked before each look.
    """
    growing: dict[Path, Facts] = {}
    while goes_on():
        found = _music_facts(folder)
        ready = [path for path, facts in found.items() if facts != known.get(path) and growing.get(path) == facts]
        growing = {path: facts for path, facts in found.items() if facts != known.get(path)}
        for path in sorted(ready, key=lambda path: found[path][1]):
            if found[path][0]:
                known[path] = found[path]
                yield path
        time.sleep(POLL_SECONDS)


def free_names(folder: Path, stem: str, count: int) -> Sequence[Path]:
    """Return `stem-001.mid` and so on: as many names as asked for, after the last one that is taken."""
    number = 1
    for path in folder.glob("*.mid"):
        head, _, tail = path.stem.removesuffix(BASE_MARK).rpartition("-")
        if head == stem and tail.isdigit():
            number = max(number, int(tail) + 1)
    return [folder / f"{stem}-{i:03d}.mid" for i in range(number, number + count)]


def _check_watch(folder: Path, output_dir: Path, given: GivenMusic) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--watch {folder}: there is no such folder; make it first")
    taken = [option for option, path in given.files().items() if path is not None]
    if taken:
        raise ConfigError(f"{taken[0]}: with --watch, the dropped files are what is continued; leave it out")
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output-dir {output_dir}: is a file; give a folder")
    if output_dir.resolve() == folder.resolve():
        raise ConfigError(f"--output-dir {output_dir}: is the folder of --watch; give another")
    check_writable(output_dir / "x.mid", "--output-dir")


def _music_facts(folder: Path) -> dict[Path, Facts]:
    found = {}
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in MUSIC_SUFFIXES and not path.name.startswith(".") and path.is_file():
                facts = path.stat()
                found[path] = (facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError as error:  # a file or the folder that was removed meanwhile
        if not folder.is_dir():
            raise ConfigError(f"--watch {folder}: the folder is gone") from error
    return found


def _count_of(there: Mapping[Path, Facts]) -> str:
    return f"; {len(there)} files that are there already are left alone" if there else ""
