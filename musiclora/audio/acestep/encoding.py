"""Conditions of songs: words and timbre through ACE-Step's text encoder and condition encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.acestep.contexts import read_silence
from musiclora.audio.acestep.prompts import MAX_LYRICS_TOKENS, TOKENIZER, Words
from musiclora.audio.acestep.song_text import SongText
from musiclora.backends.condition_rows import pad_sequences
from musiclora.backends.registry import get_backend
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_folders import find_acestep
from musiclora.convert.models.qwen3 import read_qwen3
from musiclora.errors import ConvertError
from musiclora.progress import Reporter

TIMBRE_FRAMES = 750  # of silence where a song has no reference: 30 seconds
_TEXTS_AT_ONCE, _SONGS_AT_ONCE = 8, 4


@dataclass(frozen=True)
class _Tokens:
    """Tokens of the prompt and of the lyrics of each song, int32 [n]."""

    prompts: list[np.ndarray]
    lyrics: list[np.ndarray]


@dataclass(frozen=True)
class _Embedded:
    """What the text encoder makes of the words.

    Attributes:
        prompts: hidden states of each prompt, float32 [n, W].
        lyrics: for each song the rows of `table` that its tokens have, int [n].
        table: embeddings of all tokens in the lyrics, float32 [tokens, W]; shared, as songs repeat them.
    """

    prompts: list[np.ndarray]
    lyrics: list[np.ndarray]
    table: np.ndarray


def has_text_encoder(model: Path) -> bool:
    """Tell whether a model's folder holds, or has beside it, the text encoder that reads captions and lyrics.

    Raises:
        ConvertError: no ACE-Step, or a text encoder that does not fit or lacks files.
    """
    if find_acestep(model).text_encoder is None:
        return False
    _find_parts(model)
    return True


def encode_songs(
    texts: Sequence[SongText],
    model: Path,
    backend: str,
    references: Sequence[np.ndarray | None],
    reporter: Reporter,
) -> list[np.ndarray]:
    """Compute the condition of each song. Text encoder and condition encoder are in memory one after the other.

    Args:
        texts: words and facts of the songs.
        model: folder of the model.
        backend: name of the backend.
        references: latents of a recording whose timbre a song takes, float32 [F, C]; None for silence.
        reporter: receives the progress.

    Returns:
        Conditions float32 [S, D]: rows of lyrics, timbre and prompt, without padding.

    Raises:
        ConvertError: the model has no text encoder, or one that does not fit.
        BackendError: a package that the backend needs is not installed.
    """
    text_encoder, tokenizer = _find_parts(model)
    words = Words(tokenizer)
    tokens = _Tokens(words.prompts(texts), words.lyrics(texts))
    if cut := sum(len(own) >= MAX_LYRICS_TOKENS for own in tokens.lyrics):
        reporter.say(f"lyrics of {cut} songs have more than {MAX_LYRICS_TOKENS} tokens: their ends are left out")
    embedded = _embed(tokens, text_encoder, backend, reporter)  # the text encoder goes with the function's end
    return _encode(embedded, model, backend, references, reporter)


def _find_parts(model: Path) -> tuple[Path, Path]:
    """Find the text encoder's folder and its tokenizer's file; both are proven to fit the model.

    Raises:
        ConvertError: one is missing, or does not fit.
    """
    folder = find_acestep(model)
    if folder.text_encoder is None:
        raise ConvertError(
            f"{folder.path}: has no text encoder, so captions and lyrics cannot be read; put Qwen3-Embedding-0.6B "
            "into it as text_encoder, or beside it"
        )
    places = [place / TOKENIZER for place in (folder.tokenizer, folder.text_encoder) if place]
    tokenizer = next((file for file in places if file.is_file()), None)
    if tokenizer is None:
        raise ConvertError(f"{folder.text_encoder}: has no {TOKENIZER}; copy it from where the text encoder comes from")
    width, wanted = read_qwen3(folder.text_encoder).config.hidden, read_acestep(model).config.text_dim
    if width != wanted:
        raise ConvertError(
            f"{folder.text_encoder}: is {width} wide, and {folder.path} reads texts {wanted} wide: this is another "
            "model's text encoder"
        )
    return folder.text_encoder, tokenizer


def _embed(tokens: _Tokens, folder: Path, backend: str, reporter: Reporter) -> _Embedded:
    """Run the text encoder over the prompts, and look up the lyrics' tokens."""
    encoder, prompts = get_backend(backend).load_text_encoder(folder), list[np.ndarray]()
    with reporter.task("reading captions") as update:
        for first in range(0, len(tokens.prompts), _TEXTS_AT_ONCE):
            group = tokens.prompts[first : first + _TEXTS_AT_ONCE]
            ids, valid = _pad(group)
            prompts += [rows[: len(own)] for rows, own in zip(encoder.encode(ids, valid), group, strict=True)]
            update(len(prompts), len(tokens.prompts))
    known, places = np.unique(np.concatenate(tokens.lyrics), return_inverse=True)
    lyrics = np.split(places.reshape(-1), np.cumsum([len(own) for own in tokens.lyrics])[:-1])
    return _Embedded(prompts, lyrics, encoder.embed(known[None])[0])


def _encode(
    embedded: _Embedded,
    model: Path,
    backend: str,
    references: Sequence[np.ndarray | None],
    reporter: Reporter,
) -> list[np.ndarray]:
    """Run the condition encoder over a few songs at a time."""
    encoder, silence = get_backend(backend).load_condition_encoder(model), read_silence(model)[:TIMBRE_FRAMES]
    found, total = list[np.ndarray](), len(embedded.prompts)
    timbres = [silence if own is None else own for own in references]
    with reporter.task("encoding words") as update:
        for first in range(0, total, _SONGS_AT_ONCE):
            songs = range(first, min(total, first + _SONGS_AT_ONCE))
            if len({timbres[i].shape for i in songs}) > 1:  # of recordings of different lengths
                parts = [[i] for i in songs]
            else:
                parts = [list(songs)]
            for part in parts:
                text = pad_sequences([embedded.prompts[i] for i in part])
                lyrics = pad_sequences([embedded.table[embedded.lyrics[i]] for i in part])
                given = np.stack([timbres[i] for i in part])
                rows, valid = encoder.encode(*text, *lyrics, given, np.arange(len(part)))
                found += [row[mask] for row, mask in zip(rows, valid, strict=True)]
            update(len(found), total)
    return found


def _pad(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack token ids [n] of different lengths; returns int32 [B, L] and its mask."""
    longest = max(len(own) for own in sequences)
    ids = np.zeros((len(sequences), longest), np.int32)
    for row, own in zip(ids, sequences, strict=True):
        row[: len(own)] = own
    return ids, np.arange(longest)[None] < np.array([[len(own)] for own in sequences])
