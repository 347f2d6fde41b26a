"""ACE-Step's part of `musiclora preprocess`: latents, and the condition of each recording's words, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.audio.acestep.data_set import DescribedSongs, describe_songs
from musiclora.audio.acestep.encoders import ENCODER_KEY, condition_encoder_fingerprint
from musiclora.audio.acestep.encoding import encode_songs, has_text_encoder
from musiclora.audio.acestep.song_text import SongText
from musiclora.audio.acestep.tempo_key import MusicEstimate, estimate_music, need_librosa
from musiclora.audio.architecture import EncodingModel
from musiclora.audio.files.sound import file_checksum, recordings_of
from musiclora.audio.latents.encode import Encoding, encode_recordings
from musiclora.audio.latents.result import LatentsResult
from musiclora.audio.latents.store import (
    condition_key,
    put_condition,
    read_index,
    refuse_foreign_files,
    write_index,
)
from musiclora.audio.latents.survey import Encoded
from musiclora.audio.model import codec_fingerprint, codec_folder
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.folder_lock import locked_folder
from musiclora.convert.files.outputs import check_folder
from musiclora.convert.models.acestep import read_acestep
from musiclora.errors import list_names
from musiclora.models import find_model
from musiclora.progress import Reporter

_GROUP = 64  # songs whose words are in memory at one time; the encoders are loaded once for each group
_ESTIMATES = "estimates"  # of an index entry


@dataclass(frozen=True)
class WordSettings:
    """Settings of the recordings' words.

    Attributes:
        caption: describes all recordings; None for what is beside each.
        estimates: estimate tempo and key where they are not stated.
    """

    caption: str | None = None
    estimates: bool = True


def preprocess_recordings(
    data_dir: Path,
    output_dir: Path,
    model: str,
    reporter: Reporter,
    *,
    backend: str = "auto",
    vae: Path | None = None,
    caption: str | None = None,
    estimates: bool | None = None,
    posterior: str | None = None,
    seed: int = 42,
    num_workers: int | None = None,
) -> LatentsResult:
    """Encode a folder of recordings and their words; an interrupted start is resumed.

    Args:
        data_dir: recordings, with dataset.json or texts beside them.
        output_dir: the latents folder.
        model: its codec is used unless `vae` names one, and its encoders.
        reporter: receives the progress.
        backend: `auto`, `mlx` or `torch`.
        vae: a codec.
        caption: describes all recordings.
        estimates: estimate tempo and key where they are not stated; None is True.
        posterior: `mean` (default) or `sample`.
        seed: of the samples.
        num_workers: accepted; codec and encoders use all cores by themselves.

    Raises:
        MusicLoraError: the folders, the model or the options do not fit. What was computed is kept.
    """
    check_folder(output_dir)
    refuse_foreign_files(output_dir)
    base, name = find_model(model), choose(backend)
    where = codec_folder(base, vae)
    settings = WordSettings(caption, estimates is not False)
    encoding = EncodingModel(base, where, codec_fingerprint(where), name)
    encoded, words = _encode(data_dir, output_dir, encoding, settings, Encoding(posterior or "mean", seed), reporter)
    return LatentsResult(output_dir, name, encoded, words)


def encode_with_conditions(
    folder: Path, cache: Path, model: EncodingModel, caption: str | None, reporter: Reporter
) -> list[str]:
    """Encode a folder of recordings and their words into a latents folder, for training and scoring.

    Returns:
        Notes for the user.

    Raises:
        MusicLoraError: see `preprocess_recordings`.
    """
    encoded, words = _encode(folder, cache, model, WordSettings(caption), Encoding(), reporter)
    return [*encoded.notes(), *words]


def _encode(
    folder: Path, cache: Path, model: EncodingModel, settings: WordSettings, encoding: Encoding, out: Reporter
) -> tuple[Encoded, list[str]]:
    """Encode the sound, then the words; only one network is in memory at a time."""
    knows_words = has_text_encoder(model.base.path)
    if knows_words:  # what does not fit is said before hours of encoding
        described = describe_songs(folder, recordings_of(folder)[0], settings.caption)
        if settings.estimates:
            need_librosa()
    codec = get_backend(model.backend).load_codec(model.codec)
    encoded = encode_recordings(folder, cache, codec, model.fingerprint, out, encoding)
    del codec
    if not knows_words:
        return encoded, [
            f"{model.base.name}: has no text encoder beside it, so captions and lyrics are not read: train learns one "
            "condition together with the adapter"
        ]
    with locked_folder(cache):
        return encoded, _encode_words(described, cache, encoded.paths, model, settings, out)


def _encode_words(
    described: DescribedSongs,
    cache: Path,
    paths: Mapping[str, Path],
    model: EncodingModel,
    settings: WordSettings,
    out: Reporter,
) -> list[str]:
    """Compute the conditions that the cache, whose lock is held, lacks; return remarks."""
    items = read_index(cache)
    notes = list(described.notes)
    if settings.estimates:
        notes += _add_estimates(items, paths, described.texts, out)
    texts = {item["sha256"]: _whole_text(item, described.texts[paths[item["sha256"]]], settings) for item in items}
    with out.task("checking the encoders"):
        own = condition_encoder_fingerprint(model.base.path)
        encoders = _hash_encoders(model.base.path, own)
    keys = {checksum: _hash_words(text, encoders) for checksum, text in texts.items()}
    wanted = [c for c in texts if condition_key(cache / f"{c}.safetensors") != keys[c]]
    finished = [{**item, "caption": texts[item["sha256"]].caption, ENCODER_KEY: own} for item in items]
    if wanted:
        write_index(cache, finished, complete=False)
    with out.task("encoding words") as update:
        for first in range(0, len(wanted), _GROUP):
            group = wanted[first : first + _GROUP]
            quiet = Reporter()
            conditions = encode_songs(
                [texts[c] for c in group], model.base.path, model.backend, [None] * len(group), quiet
            )
            for checksum, condition in zip(group, conditions, strict=True):
                put_condition(cache / f"{checksum}.safetensors", keys[checksum], condition)
            update(first + len(group), len(wanted))
    write_index(cache, finished)
    return notes


def _add_estimates(
    items: Sequence[dict[str, Any]], paths: Mapping[str, Path], texts: Mapping[Path, SongText], out: Reporter
) -> list[str]:
    """Estimate tempo and key of the recordings whose words lack one of them, into their index entries."""
    lacking = [item for item in items if _lacks_facts(texts[paths[item["sha256"]]])]
    fresh = [item for item in lacking if _ESTIMATES not in item]
    with out.task("estimating tempo and key") as update:
        for number, item in enumerate(fresh, 1):
            item[_ESTIMATES] = dataclasses.asdict(estimate_music(paths[item["sha256"]]))
            update(number, len(fresh))
    if not lacking:
        return []
    lines = [f"{item['source']}: {MusicEstimate(**item[_ESTIMATES]).line()}" for item in lacking]
    return [
        f"tempo and key of {len(lacking)} recordings are estimates (state them in dataset.json, or give "
        f"--no-estimates): {list_names(lines, 4)}"
    ]


def _lacks_facts(text: SongText) -> bool:
    return text.bpm is None or text.key is None


def _whole_text(item: Mapping[str, Any], text: SongText, settings: WordSettings) -> SongText:
    """Add the recording's length, and estimates of what is not stated."""
    found = item.get(_ESTIMATES) if settings.estimates else None
    known: Callable[[str], Any] = (found or {}).get
    return dataclasses.replace(
        text,
        seconds=float(item["seconds"]),
        bpm=known("bpm") if text.bpm is None else text.bpm,
        key=known("key") if text.key is None else text.key,
    )


def _hash_encoders(model: Path, condition_encoder: str) -> str:
    """Hash the condition encoder and the files of text encoder and tokenizer."""
    parts, folders = [condition_encoder], read_acestep(model).folder
    for folder in dict.fromkeys((folders.text_encoder, folders.tokenizer)):
        files = sorted(folder.iterdir()) if folder else []
        parts += [file_checksum(file) for file in files if file.is_file() and file.suffix in (".safetensors", ".json")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _hash_words(text: SongText, encoders: str) -> str:
    """Identify a condition by everything that it is computed from."""
    content = json.dumps([dataclasses.asdict(text), encoders], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
