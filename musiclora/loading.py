"""A base with its adapters, ready to generate or to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from musiclora.adapters import combine, parse_adapter
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.gpt2 import read_checkpoint
from musiclora.data.tokenizer import TOKENIZER_FILE, MusicTokenizer
from musiclora.errors import ConfigError
from musiclora.models import Adapter, BaseModel, base_of, check_base, find_adapter
from musiclora.prepare import find_tokenizer


@dataclass(frozen=True)
class Opened:
    """A loaded model.

    Attributes:
        model: a TokenModel of the backend, the adapters injected as one.
        base: where the weights came from.
        tokenizer: the base's, or the one asked for.
        backend: what computes.
        adapters: what was injected.
        notes: what the user should know.
    """

    model: Any
    base: BaseModel
    tokenizer: MusicTokenizer
    backend: str
    adapters: tuple[Adapter, ...]
    notes: tuple[str, ...]


def open_model(
    model: str | None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    tokenizer: str | None = None,
    dtype: str = "float32",
    allow_base_mismatch: bool = False,
) -> Opened:
    """Load a base and inject adapters given as `PATH` or `PATH:STRENGTH`.

    Raises:
        ConfigError, ConvertError, DataError, BackendError: whatever does not fit, in one line.
    """
    found = tuple(find_adapter(*parse_adapter(text)) for text in adapters)
    base = base_of(model, found)
    notes = [note for adapter in found for note in check_base(adapter, base, allow_base_mismatch)]
    codec = _tokenizer(base, found, tokenizer)
    name = choose(backend)
    loaded = get_backend(name).load(FAMILIES["symbolic"], base.path, dtype=dtype)
    if found:
        spec, state = combine([(a.spec, a.state, a.strength) for a in found])
        loaded.inject_adapter(spec, state)
    return Opened(loaded, base, codec, name, found, tuple(notes))


def _tokenizer(base: BaseModel, adapters: Sequence[Adapter], wanted: str | None) -> MusicTokenizer:
    """The tokenizer asked for, else the one that the adapters were trained with, else the base's own."""
    vocab_size = read_checkpoint(base.path).config.vocab_size
    # Folders of other tools may hold a tokenizer.json of another kind; ours have a record.
    beside = [a.path / TOKENIZER_FILE for a in adapters if a.record and (a.path / TOKENIZER_FILE).is_file()]
    if wanted is not None or not beside:
        return find_tokenizer(base, vocab_size, wanted)
    found = [find_tokenizer(base, vocab_size, str(path)) for path in beside]
    if len({tokenizer.fingerprint for tokenizer in found}) > 1:
        raise ConfigError("the adapters were trained with different tokenizers; give --tokenizer")
    return found[0]
