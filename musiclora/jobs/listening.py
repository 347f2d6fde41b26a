"""Public API of `musiclora listen`: make the page of a blind listening test, and score the ratings."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.files.sound import read_recording
from musiclora.convert.files.atomic import atomic_write, write_json
from musiclora.convert.files.outputs import check_outputs, check_writable, same_place
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import ConfigError, DataError, join_problems
from musiclora.evaluation.listening import excerpts
from musiclora.evaluation.listening.key import CONDITIONS, KEY_FORMAT, Item, read_key
from musiclora.evaluation.listening.page import listening_page, page_fingerprint
from musiclora.evaluation.listening.ratings import collect_ratings
from musiclora.evaluation.listening.request import ListeningRequest, ListeningTest
from musiclora.evaluation.listening.score import ListeningScore, score_ratings
from musiclora.evaluation.measure import prefix_path, split_base_versions
from musiclora.evaluation.scores import count_pieces
from musiclora.formats import MUSIC_SUFFIXES, RECORDING_SUFFIXES
from musiclora.progress import OnProgress, Reporter
from musiclora.symbolic.render import find_engine, find_soundfont, render_audio

_REFERENCES = 2
_LONGEST_EXCERPT_SECONDS = 60.0
_DEFAULT_COUNT = 8  # 24 ratings of 25 s are 10 minutes; attention falls in longer sessions
_MOST_PER_FOLDER = 40


@dataclass(frozen=True)
class _Piece:
    """Music of one file without the silence at its ends, mono, float32 [samples]."""

    path: Path
    audio: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.audio) / excerpts.RATE_HZ


def make_listening_test(request: ListeningRequest, reporter: Reporter | None = None) -> ListeningTest:
    """Write the page of a blind listening test and its key; both appear or neither.

    Raises:
        ConfigError: an option is out of range, an output exists, or a package is missing.
        DataError: a folder holds too little music that can be played.
    """
    _check_request(request)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    remarks: list[str] = []
    files = _music_files(request, remarks)
    with (reporter or Reporter()).task("reading and rendering") as update:
        pieces = _read_pieces(files, request, seed, remarks, update)
    count, seconds = _fit(pieces, request, remarks)
    parts, places = _cut_pieces(pieces, count, seconds, seed)
    matched, gains, level = excerpts.match_loudness(parts)
    coded = excerpts.encode_mp3(matched)
    rated, references = len(CONDITIONS) * count, coded[len(CONDITIONS) * count :]
    ids = _opaque_ids(rated, seed)
    items = [
        Item(ids[i], condition, _as_text(path.name), round(start, 3), round(gains[i], 2))
        for i, (condition, path, start) in enumerate(places[:rated])
    ]
    sounds = dict(zip(ids, coded, strict=False))
    test = page_fingerprint(request.title, sounds, references)
    page = listening_page(request.title, test, sounds, references)
    key = {
        "format": KEY_FORMAT,
        "version": 1,
        "test": test,
        "title": request.title,
        "seed": seed,
        "seconds": seconds,
        "loudness_lufs": round(level, 2),
        "items": [dataclasses.asdict(item) for item in items],
        "references": [_as_text(path.name) for _, path, _ in places[rated:]],
    }
    _write_both(request, page, key)
    size = len(page.encode())
    return ListeningTest(
        request.output, request.key, test, count, len(references), seconds, level, seed, size, tuple(remarks)
    )


def _check_request(request: ListeningRequest) -> None:
    low, high = excerpts.SHORTEST_SECONDS, _LONGEST_EXCERPT_SECONDS
    if not low <= request.seconds <= high:
        raise ConfigError(f"--seconds {request.seconds:g}: expected {low:g} to {high:g}")
    if request.count is not None and not 1 <= request.count <= _MOST_PER_FOLDER:
        raise ConfigError(f"--count {request.count}: expected 1 to {_MOST_PER_FOLDER}")
    if request.seed is not None and request.seed < 0:
        raise ConfigError(f"--seed {request.seed}: expected 0 or more")
    if request.title != _as_text(request.title):
        raise ConfigError("--title: expected UTF-8 text")
    for condition in ("base", "adapted"):
        if same_place(request.real_dir, request.folders()[condition]):
            raise ConfigError(
                f"--real-dir {request.real_dir}: is the folder of --{condition}-dir; give the artist's music"
            )
    if request.output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output {request.output}: expected a name that ends in .html")
    check_outputs("--output", [request.output, request.key], {}, overwrite=request.overwrite)
    check_writable(request.output, "--output")
    excerpts.need_mp3()


def _as_text(name: str) -> str:
    """Replace the bytes of a name that are no UTF-8 by question marks."""
    return name.encode(errors="replace").decode()


def _music_files(request: ListeningRequest, remarks: list[str]) -> dict[str, list[Path]]:
    """List the music of each condition, all MIDI or all recordings where the folders allow it."""
    kinds: dict[str, dict[str, list[Path]]] = {}
    for condition, folder in request.folders().items():
        option = f"--{condition}-dir {folder}"
        if not folder.is_dir():
            raise DataError(f"{option}: {'is a file; give a folder' if folder.exists() else 'there is no such folder'}")
        found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        if condition != "real" and same_place(request.base_dir, request.adapted_dir):
            found = split_base_versions(found)[condition == "base"]
        kinds[condition] = {
            "MIDI files": [p for p in found if p.suffix.lower() in MUSIC_SUFFIXES],
            "recordings": [p for p in found if p.suffix.lower() in RECORDING_SUFFIXES],
        }
        if not any(kinds[condition].values()):
            raise DataError(f"{option}: holds no MIDI files and no recordings")
    for kind in ("MIDI files", "recordings"):
        if all(kinds[condition][kind] for condition in CONDITIONS):
            return {condition: kinds[condition][kind] for condition in CONDITIONS}
    chosen = {condition: next(kind for kind, files in kinds[condition].items() if files) for condition in CONDITIONS}
    told = ", ".join(f"{condition} are {kind}" for condition, kind in chosen.items())
    remarks.append(f"{told}: listeners will hear the synthesiser, and the test is then not blind")
    return {condition: kinds[condition][chosen[condition]] for condition in CONDITIONS}


def _read_pieces(
    files: Mapping[str, Sequence[Path]],
    request: ListeningRequest,
    seed: int,
    remarks: list[str],
    update: OnProgress,
) -> dict[str, list[_Piece]]:
    """Read the drawn files of each condition; those that cannot be played are left out with a line."""
    if any(path.suffix.lower() in MUSIC_SUFFIXES for paths in files.values() for path in paths):
        find_engine()  # a missing synthesiser or soundfont is no fault of every file
        find_soundfont(request.soundfont)
    wanted = _wanted(request)
    least = max(excerpts.SHORTEST_SECONDS, request.seconds / 2)  # one short piece would shorten every excerpt
    total, done, found = sum(min(wanted[c], len(files[c])) for c in CONDITIONS), 0, {}
    for number, condition in enumerate(CONDITIONS):
        order = np.random.default_rng([seed, number]).permutation(len(files[condition]))
        pieces: list[_Piece] = []
        for path in (files[condition][i] for i in order):
            if len(pieces) == wanted[condition]:
                break
            try:
                audio = excerpts.trim_silence(_read_music(path, request.soundfont))
                if len(audio) < least * excerpts.RATE_HZ:
                    raise DataError(f"holds less than {least:g} s of sound; a smaller --seconds would take it")
            except DataError as error:
                remarks.append(f"left out {prefix_path(path, error)}")
                continue
            pieces.append(_Piece(path, audio))
            done += 1
            update(done, total)
        found[condition] = pieces
    return found


def _wanted(request: ListeningRequest) -> dict[str, int]:
    """Return how many pieces of each condition to read; real ones serve as references too."""
    count = request.count or _DEFAULT_COUNT
    return {condition: count + (_REFERENCES if condition == "real" else 0) for condition in CONDITIONS}


def _read_music(path: Path, soundfont: Path | None) -> np.ndarray:
    """Read or render a file as mono float32 [samples]."""
    if path.suffix.lower() in RECORDING_SUFFIXES:
        return _read_mono(path)
    with scratch_folder() as folder:
        wav = folder / "music.wav"
        render_audio(path, wav, soundfont)
        return _read_mono(wav)


def _read_mono(path: Path) -> np.ndarray:
    mono: np.ndarray = read_recording(path, excerpts.RATE_HZ).mean(axis=0)
    return mono


def _fit(pieces: Mapping[str, Sequence[_Piece]], request: ListeningRequest, remarks: list[str]) -> tuple[int, float]:
    """Find the number of excerpts of each kind and their common length, which must not tell the kinds apart."""
    for condition, folder in request.folders().items():
        least = 1 + (condition == "real")
        if len(pieces[condition]) < least:
            why = f": {join_problems(remarks)}" if remarks else ""
            need = " (one is the reference of the style)" if least > 1 else ""
            held = count_pieces(len(pieces[condition]), "files")
            raise DataError(f"--{condition}-dir {folder}: {held} can be played, {least} needed{need}{why}")
    count = min(len(pieces["base"]), len(pieces["adapted"]), len(pieces["real"]) - 1, request.count or _DEFAULT_COUNT)
    if request.count and count < request.count:
        remarks.append(f"{count} excerpts of each kind in place of {request.count}: a folder holds no more")
    used = [piece for condition in CONDITIONS for piece in _used(pieces, condition, count)]
    shortest = min(piece.seconds for piece in used)
    if shortest < request.seconds:
        remarks.append(
            f"excerpts last {shortest:.1f} s in place of {request.seconds:g} s, as long as the shortest piece"
        )
    return count, min(request.seconds, math.floor(shortest * 100) / 100)


def _used(pieces: Mapping[str, Sequence[_Piece]], condition: str, count: int) -> Sequence[_Piece]:
    """Return the pieces to cut; those of the real music behind the rated ones become references."""
    return pieces[condition][: count + (_REFERENCES if condition == "real" else 0)]


def _cut_pieces(
    pieces: Mapping[str, Sequence[_Piece]], count: int, seconds: float, seed: int
) -> tuple[list[np.ndarray], list[tuple[str, Path, float]]]:
    """Cut the rated excerpts in the order of the conditions, and the references behind them."""
    drawn = [(c, piece) for c in CONDITIONS for piece in pieces[c][:count]]
    drawn += [("reference", piece) for piece in _used(pieces, "real", count)[count:]]
    rng = np.random.default_rng([seed, len(CONDITIONS)])
    parts, places = [], []
    for condition, piece in drawn:
        start = min(excerpts.choose_start(piece.audio, seconds, rng), max(0.0, piece.seconds - seconds))
        try:
            parts.append(excerpts.cut_excerpt(piece.audio, start, seconds))
        except DataError as error:
            raise DataError(f"{piece.path}: {error}; remove the file") from error
        places.append((condition, piece.path, start))
    return parts, places


def _opaque_ids(count: int, seed: int) -> list[str]:
    """Draw different names of eight hexadecimal digits, whose order tells nothing."""
    drawn = np.random.default_rng([seed, len(CONDITIONS) + 1]).choice(2**32, size=2 * count, replace=True)
    return [f"{number:08x}" for number in dict.fromkeys(int(n) for n in drawn)][:count]


def _write_both(request: ListeningRequest, page: str, key: dict[str, Any]) -> None:
    """Write the key, then the page; a failure at the page restores the key that was there, or none."""
    earlier = request.key.read_bytes() if request.key.exists() else None
    write_json(request.key, key)
    try:
        atomic_write(request.output, page, overwrite=request.overwrite)
    except BaseException:
        if earlier is None:
            request.key.unlink(missing_ok=True)
        else:
            atomic_write(request.key, earlier)
        raise


def score_listening_test(key: Path, ratings: Sequence[Path]) -> ListeningScore:
    """Score the ratings of a listening test.

    Args:
        key: file that `make_listening_test` wrote beside the page.
        ratings: listeners' files, or folders of them.

    Raises:
        MusicLoraError: the key cannot be read, or no ratings of this test remain.
    """
    found = read_key(key)
    return score_ratings(found, collect_ratings(found, ratings))
