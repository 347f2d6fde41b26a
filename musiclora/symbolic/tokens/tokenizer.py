"""MidiTok's tokenizers behind one small class that merges tracks, counts notes and pickles."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import DataError

_FILE_KEYS = ("config", "tokenization", "_vocab_base", "_model", "_vocab_base_byte_to_token")

TOKENIZER_FILE = "tokenizer.json"
_PITCH_TYPES = ("Pitch", "PitchDrum", "PitchIntervalTime", "PitchIntervalChord")


def load_miditok() -> Any:
    """The miditok package, imported without its torch data sets.

    Where torch is installed, miditok imports it for data sets that nothing here uses: two seconds in every child
    process and in every command on MLX. While it is hidden, miditok does without, as where torch is missing.
    """
    hidden = "miditok" not in sys.modules and "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("miditok")
    finally:
        if hidden:
            del sys.modules["torch"]


@dataclass(frozen=True)
class MergedTracks:
    """What became of a score's notes on the way to one voice of tokens."""

    score: Any
    kept: int
    drums: int
    outside: int
    doubled: int


def merge_tracks(score: Any, low: int = 21, high: int = 109) -> MergedTracks:
    """Put all pitched notes into one piano track, as a tokenizer with one sequence a track needs it.

    Drum tracks and pitches outside low..high are dropped; of notes with the same onset and pitch (unisons of two
    voices) the longest stays. Tempos and time signatures are kept. The input is not changed.

    Args:
        score: symusic Score in ticks.
        low: lowest MIDI pitch kept.
        high: highest MIDI pitch kept.
    """
    from symusic import Note, Score, Track

    arrays = [t.notes.numpy() for t in score.tracks if not t.is_drum and len(t.notes)]
    drums = sum(len(t.notes) for t in score.tracks if t.is_drum)
    names = ("time", "duration", "pitch", "velocity")
    notes = {n: np.concatenate([a[n] for a in arrays]) if arrays else np.zeros(0, np.int32) for n in names}
    inside = (notes["pitch"] >= low) & (notes["pitch"] <= high)
    notes = {n: a[inside] for n, a in notes.items()}
    order = np.lexsort((-notes["duration"], notes["pitch"], notes["time"]))
    notes = {n: a[order] for n, a in notes.items()}
    same = (np.diff(notes["time"]) == 0) & (np.diff(notes["pitch"]) == 0)
    first = np.concatenate([np.ones(min(1, len(order)), bool), ~same])
    merged = Score(score.ticks_per_quarter)
    merged.tempos = score.tempos
    merged.time_signatures = score.time_signatures
    track = Track(program=0, name="Piano")
    track.notes = Note.from_numpy(**{n: np.ascontiguousarray(a[first]) for n, a in notes.items()})
    merged.tracks.append(track)
    return MergedTracks(merged, int(first.sum()), drums, int((~inside).sum()), int(same.sum()))


class MusicTokenizer:
    """One MidiTok tokenizer that turns a score into one sequence of ids and back.

    Attributes:
        kind: MidiTok's class name, such as `REMI` or `PerTok`.
        vocab_size: number of ids.
        pad_id: id of the padding token.
        bos_id: id of the begin token, or None.
        eos_id: id of the end token, or None.
        bar_ids: ids of the tokens that open a bar; PerTok writes them between bars only, and bars every metre in
            four quarters, as does REMI without time signatures.
        inferred: True where nothing said which tokenizer fits and the vocabulary's size decided.
    """

    def __init__(self, inner: Any, inferred: bool = False) -> None:
        self.inner = inner
        self.inferred = inferred
        self.kind = type(inner).__name__
        self.vocab_size = len(inner)
        base = inner.vocab
        self.pad_id = int(base["PAD_None"])
        self.bos_id: int | None = base.get("BOS_None")
        self.eos_id: int | None = base.get("EOS_None")
        self.bar_ids = tuple(sorted(i for t, i in base.items() if t.startswith("Bar_") and t != "Bar_End"))
        self.tokens: list[str] = [t for t, _ in sorted(base.items(), key=lambda item: item[1])]
        self.pitch_range = (int(inner.config.pitch_range[0]), int(inner.config.pitch_range[1]))
        self._specials = frozenset(int(base[t]) for t in inner.special_tokens if t in base)
        self._one_stream = bool(inner.config.use_programs and inner.config.one_token_stream_for_programs)
        if self.kind == "PerTok":
            # MidiTok searches all durations linearly for every note: nearly all of PerTok's time.
            inner._get_closest_duration_tuple = functools.cache(inner._get_closest_duration_tuple)

    def __reduce__(self) -> tuple[Callable[[str, bool], MusicTokenizer], tuple[str, bool]]:
        return from_json, (self.to_json(), self.inferred)

    @functools.cached_property
    def pitch_of(self) -> np.ndarray:
        """MIDI pitch of each base id, int32 [V]; -1 where the token is no pitch."""
        return np.array([int(t[6:]) if t.startswith("Pitch_") else -1 for t in self.tokens], np.int32)

    def encode(self, score: Any) -> np.ndarray:
        """Ids of a score, int32 [n], without BOS and EOS; empty where no note is left."""
        if not self._one_stream:
            score = merge_tracks(score, *self.pitch_range).score
        if score.note_num() == 0:
            return np.zeros(0, np.int32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.inner.encode(score)
        parts = found if isinstance(found, list) else [found]
        return np.array([i for part in parts for i in part.ids], np.int32)

    def decode(self, ids: np.ndarray) -> Any:
        """Score of the ids [n]; special tokens are skipped, and notes that lack a part are left out.

        Raises:
            DataError: an id lies outside the vocabulary.
        """
        from symusic import Score, Tempo

        self._check(ids)
        plain = [int(i) for i in ids if int(i) not in self._specials]
        if not plain:
            return Score(self.inner.time_division)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score = self.inner.decode(plain if self._one_stream else [plain])
        if not len(score.tempos):
            score.tempos.append(Tempo(0, 120.0))
        return score

    def base_ids(self, ids: np.ndarray) -> np.ndarray:
        """Ids without merged tokens, int32 [m]: index of `tokens`; the same ids where nothing was merged."""
        if not self.inner.is_trained:
            return np.asarray(ids, np.int32)
        seq = load_miditok().TokSequence(ids=[int(i) for i in ids], are_ids_encoded=True)
        self.inner.decode_token_ids(seq)
        return np.array(seq.ids, np.int32)

    def note_count(self, ids: np.ndarray) -> int:
        """Number of notes that decode yields for the ids."""
        self._check(ids)
        base = self.base_ids(ids)
        base = base[~np.isin(base, list(self._specials))]
        types = self._types[base]
        config = self.inner.config
        if not config.using_note_duration_tokens or config.use_pitch_intervals or self.kind not in ("REMI", "PerTok"):
            return int(self.decode(ids).note_num()) if len(base) else 0
        note = np.isin(types, _PITCH_TYPES)
        ahead = 1
        for needed in (["Velocity"] if config.use_velocities else []) + ["Duration"]:
            after = np.concatenate([types[ahead:], np.full(min(ahead, len(types)), "")])
            note &= after == needed
            ahead += 1
        return int(note.sum())

    @functools.cached_property
    def _types(self) -> np.ndarray:
        return np.array([t.split("_")[0] for t in self.tokens])

    def _check(self, ids: np.ndarray) -> None:
        values = np.asarray(ids)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            raise DataError(
                f"token ids reach from {values.min()} to {values.max()}, but this {self.kind} tokenizer "
                f"has {self.vocab_size} tokens; decode with the tokenizer that belongs to the model"
            )

    def to_json(self) -> str:
        """The content of MidiTok's own tokenizer.json."""
        return json.dumps(self.inner.to_dict(), indent=1)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""
        (folder / TOKENIZER_FILE).write_text(self.to_json(), encoding="utf-8")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what decides the meaning of an id; the same across versions of MidiTok that agree on it."""
        params = self.inner.to_dict()
        defaults = _plain(load_miditok().TokenizerConfig().to_dict(serialize=True))
        config = {k: v for k, v in _plain(params["config"]).items() if defaults.get(k) != v}
        record = {"kind": self.kind, "vocab": self.tokens, "config": config, "model": params.get("_model")}
        return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as JSON keeps it: a loaded one has lists where a built one has tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def from_json(text: str, inferred: bool = False, where: str = "tokenizer") -> MusicTokenizer:
    """Tokenizer from the content of a tokenizer.json.

    Raises:
        DataError: the text is no MidiTok tokenizer, or one with several ids a step.
    """
    miditok = load_miditok()
    try:
        params = json.loads(text)
        kind = params["tokenization"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a tokenizer saved by MidiTok (no 'tokenization' in it)") from error
    names = {n for n in getattr(miditok.tokenizations, "__all__", ()) if n != "MusicTokenizer"}
    if kind not in names:
        raise DataError(f"{where}: unknown tokenization {kind!r}; known: {', '.join(sorted(names))}")
    kept = {k: params[k] for k in _FILE_KEYS if k in params}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / TOKENIZER_FILE  # MidiTok reads its settings from a file only
        path.write_text(json.dumps(kept), encoding="utf-8")
        try:
            inner = getattr(miditok, kind)(params=path)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"{where}: MidiTok cannot build this {kind} tokenizer ({error!r})") from error
    if inner.is_multi_voc:
        raise DataError(f"{where}: {kind} writes several ids a step; a GPT-2 needs one (REMI, PerTok, TSD, ...)")
    return MusicTokenizer(inner, inferred)
