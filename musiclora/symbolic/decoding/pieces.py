"""Generation with a token model of any tokens."""

from __future__ import annotations

from pathlib import Path

from musiclora.backends.base import TokenModel
from musiclora.errors import ConfigError, DataError
from musiclora.progress import OnProgress
from musiclora.symbolic.decoding.arrival.pieces import generate_arrival_pieces
from musiclora.symbolic.decoding.continuation import continue_pieces
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

_CAN_FILL = "--model stanford-crfm/music-small-800k"
_SAMPLE_TOKENS = 512


def generate_pieces(
    model: TokenModel,
    tokenizer: SymbolicTokenizer,
    request: GenerationRequest,
    on_progress: OnProgress | None = None,
) -> list[GeneratedPiece]:
    """Generate pieces that decode.

    With MidiTok's tokens each ends on a bar line or at the model's EOS. With arrival-time tokens it ends where the
    given parts or the gap end, on a bar line of the prompt, or after a note.

    Args:
        model: model with its adapter injected, if any.
        tokenizer: tokenizer of the model.
        request: settings.
        on_progress: called with (done, at most): tokens, or steps of time.

    Raises:
        ConfigError: the tokens cannot do what is asked.
        DataError: the prompt or a piece has no note.
    """
    check_tokens(tokenizer, request)
    if isinstance(tokenizer, MusicTokenizer):
        return continue_pieces(model, tokenizer, request, on_progress)
    return generate_arrival_pieces(model, request, on_progress)


def check_tokens(tokenizer: SymbolicTokenizer, request: GenerationRequest) -> None:
    """Raise ConfigError where a tokenizer's tokens cannot do what is asked, and name a model that can."""
    if not isinstance(tokenizer, MusicTokenizer):
        return
    for option, asked in (("--accompany", request.accompany), ("--infill", request.infill)):
        if asked is not None:
            raise ConfigError(
                f"{option}: {tokenizer.kind} tokens are written from beginning to end and know nothing of what comes; "
                f"models of arrival-time tokens can, such as {_CAN_FILL}"
            )


def write_midi_sample(
    model: TokenModel,
    tokenizer: SymbolicTokenizer,
    folder: Path,
    name: str,
    seed: int,
    notes_at_once: int | None = None,
    instruments: frozenset[int] | None = None,
) -> Path | None:
    """Write one piece during training, as `<folder>/<name>.mid`; return None where it has no note."""
    tokens = min(_SAMPLE_TOKENS, model.n_positions - 1)
    request = GenerationRequest(tokens, seed=seed, notes_at_once=notes_at_once, instruments=instruments)
    try:
        piece = generate_pieces(model, tokenizer, request)[0]
    except DataError:
        return None
    path = folder / f"{name}.mid"
    piece.save(path)
    return path
