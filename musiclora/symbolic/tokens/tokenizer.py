"""Wrapper around MidiTok's tokenizers: merges unisons, counts notes, pickles, and has a stable fingerprint."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.convert.errors import ConvertError, DataError, show_value
from musiclora.convert.files.json_file import parse_json
from musiclora.symbolic.tokens.holds import DRUMS, PITCH_STARTS, Holds, find_holds, find_pitch_range
from musiclora.symbolic.tokens.merge import (
    PertokLayout,
    mend_pertok_decoding,
    merge_pertok_unisons,
    merge_tracks,
    order_notes,
    pertok_layout,
)
from musiclora.symbolic.tokens.note_tokens import PITCH_TYPES, find_note_spans, parts_after_pitch
from musiclora.symbolic.tokens.protocol import TOKENIZER_FILE, NoteSpans
from musiclora.symbolic.tokens.tokenizer_file import TOKENIZER_KIND, check_learnt_model

if TYPE_CHECKING:
    from types import ModuleType

    from miditok import MusicTokenizer as MidiTokTokenizer
    from symusic import Score

_FILE_KEYS = ("config", "tokenization", "_vocab_base", "_model", "_vocab_base_byte_to_token")
# Exceptions of MidiTok on settings that contradict each other.
_MIDITOK_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_PITCHED_TYPES = ("Pitch", "NoteOn", "NoteOff")
_NO_PROGRAM = -2


def load_miditok() -> ModuleType:
    """Import the miditok package without its PyTorch data sets.

    Where torch is installed, miditok imports it for data sets that this package does not use. That takes two seconds
    in each child process and in each command on MLX. With torch hidden, miditok behaves as where it is missing. Older
    versions of huggingface_hub, which miditok needs, insist on a torch that is installed: with them it is imported.
    """
    hidden = "miditok" not in sys.modules and "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("huggingface_hub.hub_mixin")  # by miditok's way it would print to stdout and fail
        return importlib.import_module("miditok")
    except ModuleNotFoundError as error:
        if not hidden or error.name != "torch":
            raise
    finally:
        if hidden:
            del sys.modules["torch"]
    return importlib.import_module("miditok")


class MusicTokenizer:
    """MidiTok tokenizer that encodes a score as one sequence of ids and decodes it.

    Attributes:
        kind: MidiTok's class name, such as `REMI` or `PerTok`.
        vocab_size: number of ids.
        pad_id: id of the padding token.
        bos_id: id of the begin token, or None.
        eos_id: id of the end token, or None.
        bar_ids: ids of the tokens that open a bar. PerTok writes them between bars only. PerTok, and REMI without
            time signatures, use bars of four quarters for every metre.
        metres_in_tokens: True where tokens carry the metres.
        tempos_in_tokens: True where tokens carry the tempos.
        tokens: text of each base id.
        pitch_range: lowest and highest MIDI pitch of the vocabulary, without those of drums.
        inferred: True where the tokenizer was chosen by the size of the vocabulary alone.
    """

    def __init__(self, inner: MidiTokTokenizer, inferred: bool = False) -> None:
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
        self.pitch_range = find_pitch_range(self.tokens, PITCH_STARTS, inner.config.pitch_range)
        # PerTok decodes bars of four quarters whatever its metres say
        self.metres_in_tokens = bool(inner.config.use_time_signatures and self.kind != "PerTok")
        self.tempos_in_tokens = bool(inner.config.use_tempos)
        # MMM counts its track tokens among the special ones, but decodes by them
        specials = [t for t in inner.special_tokens if t in base and not t.startswith("Track_")]
        self._specials = frozenset(int(base[t]) for t in specials)
        self._one_stream = bool(inner.one_token_stream)
        self._after_pitch = parts_after_pitch(inner, self.kind)
        if self.kind == "PerTok":
            # MidiTok searches all durations linearly for every note, which is nearly all of PerTok's time.
            inner._get_closest_duration_tuple = functools.cache(inner._get_closest_duration_tuple)
            mend_pertok_decoding(inner)

    def __reduce__(self) -> tuple[Callable[[str, bool], MusicTokenizer], tuple[str, bool]]:
        return from_json, (self.to_json(), self.inferred)

    @functools.cached_property
    def pitch_of(self) -> np.ndarray:
        """MIDI pitch of each base id, int32 [V]; -1 for tokens other than pitches, and for those of drums."""
        pairs = (token.partition("_") for token in self.tokens)
        return np.array([int(value) if kind in _PITCHED_TYPES else -1 for kind, _, value in pairs], np.int32)

    def pitched(self, ids: np.ndarray) -> np.ndarray:
        """Mark the base ids that are an instrument's pitch, bool [n]; drums have pitches of their own meaning.

        Where drums have no tokens of their own, their notes are those after a token of the drums' program.
        """
        marks = self._program_of[ids]
        latest = np.maximum.accumulate(np.where(marks != _NO_PROGRAM, np.arange(len(ids)), 0))
        drums: np.ndarray = marks[latest] == DRUMS if len(ids) else np.zeros(0, bool)
        found: np.ndarray = (self.pitch_of[ids] >= 0) & ~drums
        return found

    @functools.cached_property
    def _program_of(self) -> np.ndarray:
        pairs = (token.partition("_") for token in self.tokens)
        return np.array([int(value) if kind == "Program" else _NO_PROGRAM for kind, _, value in pairs], np.int32)

    @functools.cached_property
    def holds(self) -> Holds:
        """Facts of music that the tokens can hold."""
        return find_holds(self.inner, self.tokens, self._one_stream)

    def hold(self, score: Score) -> Score:
        """Reduce a score to what the tokens hold of its notes, without changing it.

        Tracks are merged where the tokens have no programs. Times are rounded to the tokenizer's grid, and unisons on
        it are merged. (PerTok rounds and merges in `encode_held`.) Events for which there are no tokens stay.
        """
        # MidiTok changes a score of its own resolution in place
        score = score.copy() if self._one_stream else merge_tracks(score, *self.pitch_range)
        if score.note_num() == 0:
            return score
        with warnings.catch_warnings(action="ignore"):
            held = self.inner.preprocess_score(score)
        if self.kind == "PerTok":  # which writes a token for every metre; other kinds leave out those without one
            known = [s for s in held.time_signatures if f"TimeSig_{s.numerator}/{s.denominator}" in self.inner.vocab]
            held.time_signatures = known
        # MidiTok orders the notes of a track where it removes duplicates.
        if self._layout is None and (self._one_stream or not self.inner.config.remove_duplicated_notes):
            order_notes(held)
        return held

    def encode(self, score: Score) -> np.ndarray:
        """Encode a score as ids, int32 [n], without BOS and EOS; empty where no note is left.

        What is decoded and encoded again gives the same tokens.
        """
        return self.encode_held(self.hold(score))

    def encode_held(self, held: Score) -> np.ndarray:
        """Encode what `hold` returned as ids, int32 [n]."""
        if held.note_num() == 0:
            return np.zeros(0, np.int32)
        with warnings.catch_warnings(action="ignore"):
            found = self.inner.encode(held, no_preprocess_score=True)
        parts = found if isinstance(found, list) else [found]
        ids = np.array([i for part in parts for i in part.ids], np.int32)
        if self._layout or self.kind != "PerTok":
            return merge_pertok_unisons(self._layout, ids) if self._layout else ids
        again = self.hold(self.decode(ids))  # PerTok rounds while it writes, which makes near-unisons unisons
        return self.encode_held(again) if again.note_num() < held.note_num() else ids

    @functools.cached_property
    def _layout(self) -> PertokLayout | None:
        return pertok_layout(self.inner, self.tokens) if self.kind == "PerTok" else None

    def decode(self, ids: np.ndarray) -> Score:
        """Decode ids [n] to a score, without special tokens and incomplete notes.

        Raises:
            DataError: an id lies outside the vocabulary.
        """
        from symusic import Score, Tempo

        self._check_range(ids)
        plain = [int(i) for i in ids if int(i) not in self._specials]
        if not plain:
            return Score(self.inner.time_division)
        with warnings.catch_warnings(action="ignore"):
            score = self.inner.decode(plain if self._one_stream else [plain])
        if not len(score.tempos):
            score.tempos.append(Tempo(0, 120.0))
        return score

    def base_ids(self, ids: np.ndarray) -> np.ndarray:
        """Replace merged tokens (byte pairs) by base ids, int32 [m], which index `tokens`."""
        if not self.inner.is_trained:
            return np.asarray(ids, np.int32)
        seq = load_miditok().TokSequence(ids=[int(i) for i in ids], are_ids_encoded=True)
        self.inner.decode_token_ids(seq)
        return np.array(seq.ids, np.int32)

    def note_count(self, ids: np.ndarray) -> int:
        """Count the notes that decode yields, mostly without decoding."""
        self._check_range(ids)
        base = self.base_ids(ids)
        base = base[~np.isin(base, list(self._specials))]
        types = self._token_types[base]
        if self._after_pitch is None:
            return int(self.decode(ids).note_num()) if len(base) else 0
        note = np.isin(types, PITCH_TYPES)
        for ahead, needed in enumerate(self._after_pitch, 1):
            after = np.concatenate([types[ahead:], np.full(min(ahead, len(types)), "")])
            note &= after == needed
        return int(note.sum())

    def note_spans(self, ids: np.ndarray) -> NoteSpans:
        """Find the tokens of each note in ids [n]; see `find_note_spans`."""
        self._check_range(ids)
        if not self.inner.is_trained:
            return find_note_spans(self.tokens, [*np.asarray(ids).reshape(-1, 1)])
        different, number = np.unique(ids, return_inverse=True)
        spelt = [self.base_ids(different[i : i + 1]) for i in range(len(different))]
        return find_note_spans(self.tokens, [spelt[i] for i in number])

    @functools.cached_property
    def _token_types(self) -> np.ndarray:
        return np.array([t.split("_")[0] for t in self.tokens])

    def _check_range(self, ids: np.ndarray) -> None:
        values = np.asarray(ids)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            raise DataError(
                f"token ids reach from {values.min()} to {values.max()}, but this {self.kind} tokenizer "
                f"has {self.vocab_size} tokens; decode with the tokenizer that belongs to the model"
            )

    def to_json(self) -> str:
        """Return the content of MidiTok's own tokenizer.json."""
        return json.dumps(self.inner.to_dict(), indent=1)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""
        (folder / TOKENIZER_FILE).write_text(self.to_json(), encoding="utf-8")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary and settings, equal across versions of MidiTok that agree on them."""
        params = self.inner.to_dict()
        defaults = _as_json_types(load_miditok().TokenizerConfig().to_dict(serialize=True))
        config = {k: v for k, v in _as_json_types(params["config"]).items() if defaults.get(k) != v}
        record = {"kind": self.kind, "vocab": self.tokens, "config": config, "model": params.get("_model")}
        return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()


def _as_json_types(config: dict[str, Any]) -> dict[str, Any]:
    """Convert tuples to lists, so that a configuration equals the same one loaded from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def from_json(text: str | bytes, inferred: bool = False, where: str = "tokenizer") -> MusicTokenizer:
    """Build the tokenizer that a tokenizer.json describes.

    Args:
        text: content of the file.
        inferred: see `MusicTokenizer`.
        where: source of the text, for error messages.

    Raises:
        DataError: the text is no MidiTok tokenizer, one with several ids for each step, or one that MidiTok cannot
            decode.
    """
    miditok = load_miditok()
    try:
        params = parse_json(text, where, TOKENIZER_KIND)
    except ConvertError as error:
        raise DataError(f"not a tokenizer saved by MidiTok: {error}") from error
    kind = params["tokenization"]
    names = {n for n in getattr(miditok.tokenizations, "__all__", ()) if n != "MusicTokenizer"}
    if not isinstance(kind, str) or kind not in names:
        raise DataError(f"{where}: unknown tokenization {show_value(kind)}; known: {', '.join(sorted(names))}")
    if params.get("_model") is not None:
        check_learnt_model(params["_model"], where)
    kept = {k: params[k] for k in _FILE_KEYS if k in params}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / TOKENIZER_FILE  # MidiTok reads its settings from a file only
        path.write_text(json.dumps(kept), encoding="utf-8")
        try:
            inner = getattr(miditok, kind)(params=path)
        except _MIDITOK_ERRORS as error:
            raise DataError(f"{where}: MidiTok cannot build this {kind} tokenizer ({error!r})") from error
    if inner.is_multi_voc:
        raise DataError(f"{where}: {kind} writes several ids a step; a GPT-2 needs one (REMI, PerTok, TSD, ...)")
    return MusicTokenizer(inner, inferred)
