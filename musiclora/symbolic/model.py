"""Loading of a symbolic base with its tokenizer and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from musiclora.adapters import Adapter, find_base_and_adapters, inject_adapters
from musiclora.backends.base import FAMILIES, TokenModel
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.fingerprint import read_record
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError
from musiclora.models import BaseModel, find_model
from musiclora.symbolic.decoding.grammar.onset_keys import ONSET_RECORD, onset_record
from musiclora.symbolic.decoding.loudness import Loudness, find_loudness
from musiclora.symbolic.decoding.songs_record import recorded_programs
from musiclora.symbolic.tokens.protocol import TOKENIZER_FILE, SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizers import check_fits, infer_tokenizer, load_tokenizer
from musiclora.training.adapter_effect import note_unchanged_output, token_probe


@dataclass(frozen=True)
class OpenedModel:
    """Loaded symbolic model.

    Attributes:
        model: model with the adapters combined and injected.
        base: record of the base.
        tokenizer: tokenizer of the model.
        backend: name of the backend.
        adapters: injected adapters.
        notes: remarks for the user.
    """

    model: TokenModel
    base: BaseModel
    tokenizer: SymbolicTokenizer
    backend: str
    adapters: tuple[Adapter, ...]
    notes: tuple[str, ...]

    def notes_at_once(self, adapted: bool) -> int | None:
        """Return the most notes that began at once in the songs of the adapters, or of the base; None if unknown."""
        records = [a.record for a in self.adapters] if adapted else [read_record(self.base.path)]
        return onset_record(records).get(ONSET_RECORD)

    @property
    def programs(self) -> frozenset[int]:
        """Programs of the songs of the adapters, or of the base where there are none; empty if unknown."""
        return recorded_programs([a.record for a in self.adapters] or [read_record(self.base.path)])

    def loudness(self, adapted: bool) -> Loudness | None:
        """Return the loudness of the songs of the first adapter that records it, or of the base; None if unknown."""
        return find_loudness([*(a.record for a in self.adapters if adapted), read_record(self.base.path)])


def open_model(
    model: str | None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    tokenizer: str | None = None,
    dtype: str = "float32",
    allow_base_mismatch: bool = False,
) -> OpenedModel:
    """Load a base and inject adapters given as `PATH` or `PATH:STRENGTH`.

    Args:
        model: base model, or None for the one that the adapters record.
        adapters: adapters, which are combined into one.
        backend: `auto`, `mlx` or `torch`.
        tokenizer: overrides the model's own.
        dtype: data type of the base's weights.
        allow_base_mismatch: accept an adapter of another base.

    Raises:
        ConfigError, ConvertError, DataError, BackendError: the parts do not fit together.
    """
    base, found, notes = find_base_and_adapters(model, adapters, allow_base_mismatch)
    codec = _choose_tokenizer(base, found, tokenizer)
    name = choose(backend)
    loaded = cast(TokenModel, get_backend(name).load(FAMILIES["symbolic"], base.path, dtype=dtype))
    inject_adapters(loaded, found)
    notes += note_unchanged_output(loaded, found, token_probe(loaded.vocab_size, loaded.n_positions), base)
    return OpenedModel(loaded, base, codec, name, found, tuple(notes))


def _choose_tokenizer(base: BaseModel, adapters: Sequence[Adapter], wanted: str | None) -> SymbolicTokenizer:
    """Load the requested tokenizer, else the one that the adapters were trained with, else the base's own."""
    vocab_size = read_checkpoint(base.path).config.vocab_size
    # Folders by other tools may hold a tokenizer.json of another kind; folders by this package have a record.
    saved = [a.path / TOKENIZER_FILE for a in adapters if a.record and (a.path / TOKENIZER_FILE).is_file()]
    if wanted is not None or not saved:
        return find_tokenizer(base, vocab_size, wanted)
    found = [find_tokenizer(base, vocab_size, str(path)) for path in saved]
    if len({tokenizer.fingerprint for tokenizer in found}) > 1:
        raise ConfigError("the adapters were trained with different tokenizers; give --tokenizer")
    return found[0]


def tokenizer_for(model: str, wanted: str | None = None) -> SymbolicTokenizer:
    """Load the requested tokenizer, or the one of a base given as for `--model`."""
    if wanted is not None:
        return load_tokenizer(wanted)
    base = find_model(model)
    return find_tokenizer(base, read_checkpoint(base.path).config.vocab_size, None)


def find_tokenizer(base: BaseModel, vocab_size: int, wanted: str | None) -> SymbolicTokenizer:
    """Load the requested tokenizer, else the one in the model's folder, else the one its vocabulary size implies.

    Raises:
        DataError: no tokenizer is found, or it has more tokens than the model.
    """
    if wanted is None:
        return infer_tokenizer(base.path, vocab_size)
    tokenizer = load_tokenizer(wanted)
    check_fits(tokenizer, vocab_size)
    return tokenizer


def gpt2_facts(folder: Path) -> dict[str, Any]:
    """Collect layout and size of a GPT-2 folder, for `doctor`."""
    checkpoint = read_checkpoint(folder)
    c = checkpoint.config
    return {
        "layout": checkpoint.layout,
        "vocab_size": c.vocab_size,
        "n_positions": c.n_positions,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
    }
