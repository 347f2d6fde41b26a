"""Choice of a tokenizer: by name, from a file, or by the size of a checkpoint's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from musiclora.convert.errors import ConvertError, DataError
from musiclora.convert.files.fingerprint import find_tokenizer_file
from musiclora.convert.files.json_file import OBJECT, parse_json, read_bounded
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.symbolic.tokens import arrival
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer, arrival_from_json
from musiclora.symbolic.tokens.protocol import TOKENIZER_FILE, SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer, from_json, load_miditok

PUBLIC_VOCAB = 292  # tokens of the public midi-gpt2 base


def public_tokenizer() -> MusicTokenizer:
    """Build the PerTok of the public midi-gpt2 base: 292 tokens."""
    miditok = load_miditok()
    return MusicTokenizer(
        miditok.PerTok(
            miditok.TokenizerConfig(
                num_velocities=8,
                use_velocities=True,
                use_chords=False,
                use_rests=True,
                use_tempos=True,
                use_time_signatures=False,
                use_sustain_pedals=False,
                use_pitch_bends=False,
                use_pitch_intervals=False,
                use_programs=False,
                use_pitchdrum_tokens=False,
                ticks_per_quarter=320,
                use_microtiming=False,
                max_microtiming_shift=0.125,
            )
        )
    )


def own_tokenizer() -> MusicTokenizer:
    """Build the REMI of our own bases: bar, position, pitch and duration only, 285 tokens.

    Measured on 250 tunes each of O'Neill, Aird, Ryan and Han and 90 chorales: tunes take 3.1 tokens a note, chorales
    2.4, and 98 to 100 % of the pieces survive a round trip exactly. A grid of 24 steps a quarter holds triplets and
    Scotch snaps (a 32nd and a dotted sixteenth). A grid of 8 or 12 distorts them in a tenth to a half of the fiddle
    tunes. Time signatures would cost 5 % more tokens, and positions and durations would mean something else in x/8
    metres. An n-gram model of 3,700 tunes predicted notes no better with them.
    """
    miditok = load_miditok()
    return MusicTokenizer(
        miditok.REMI(
            miditok.TokenizerConfig(
                pitch_range=(21, 109),
                beat_res={(0, 2): 24, (2, 4): 12, (4, 16): 2},
                special_tokens=["PAD", "BOS", "EOS"],
                use_velocities=False,
                use_chords=False,
                use_rests=False,
                use_tempos=False,
                use_time_signatures=False,
                use_programs=False,
                use_pitchdrum_tokens=False,
                remove_duplicated_notes=True,
            )
        )
    )


def band_tokenizer() -> MusicTokenizer:
    """Build the REMI of our own band base: programs, loudness, metres and tempos in one sequence, 722 tokens.

    Measured on 60 arrangements for 1 to 6 parts (examples/bundled_band): 4.46 tokens a note and 89 a bar, so that 1,024
    positions hold eleven bars. 99.97 % of the onsets survive a round trip, and 54 of 60 pieces exactly; a grid of 12
    steps a quarter keeps 23, one of 8 keeps 33. Eight levels of loudness are 16 apart, enough for accents. What is
    shorter loses more than it saves: no loudness takes 3.46 tokens a note, no metres 4.40, no tempos 4.45. Programs
    written only where they change take 4.06, but rows and prompts that begin at a bar line would not say who plays, and
    MidiTok's graph of token types forbids a program right after a position. All 128 programs have tokens, so that songs
    keep their instruments; drums have pitches of their own, which no transposition moves.
    """
    miditok = load_miditok()
    return MusicTokenizer(
        miditok.REMI(
            miditok.TokenizerConfig(
                pitch_range=(21, 109),
                beat_res={(0, 2): 24, (2, 4): 12, (4, 16): 2},
                special_tokens=["PAD", "BOS", "EOS"],
                num_velocities=8,
                use_velocities=True,
                use_chords=False,
                use_rests=False,
                use_tempos=True,
                num_tempos=32,
                tempo_range=(40, 250),
                log_tempos=True,
                delete_equal_successive_tempo_changes=True,
                use_time_signatures=True,
                time_signature_range={2: [2, 3], 4: [2, 3, 4, 5, 6, 7], 8: [3, 5, 6, 7, 9, 12]},
                delete_equal_successive_time_sig_changes=True,
                use_programs=True,
                one_token_stream_for_programs=True,
                program_changes=False,
                use_pitchdrum_tokens=True,
                remove_duplicated_notes=True,
            )
        )
    )


_BY_NAME: dict[str, Callable[[], SymbolicTokenizer]] = {
    "public": public_tokenizer,
    "own": own_tokenizer,
    "band": band_tokenizer,
    "arrival": ArrivalTokenizer,
}


def load_tokenizer(source: str | Path) -> SymbolicTokenizer:
    """Load a tokenizer by name (`public`, `own`, `band`, `arrival`), from a tokenizer.json, or from its folder.

    Raises:
        DataError: the file is missing, or describes no tokenizer that this package knows.
    """
    if source in _BY_NAME:
        return _BY_NAME[str(source)]()
    path = Path(source)
    file = (find_tokenizer_file(path) or path / TOKENIZER_FILE) if path.is_dir() else path
    try:
        text = read_bounded(file)
    except ConvertError as error:
        names = ", ".join(f"'{name}'" for name in _BY_NAME)
        raise DataError(f"tokenizer {source}: {error}; give {names}, a tokenizer.json or its folder") from error
    return tokenizer_from_json(text, where=str(file))


def tokenizer_from_json(text: str | bytes, where: str = "tokenizer") -> SymbolicTokenizer:
    """Build the tokenizer that a tokenizer.json describes: arrival-time tokens, or one of MidiTok's.

    Raises:
        DataError: it describes neither.
    """
    with suppress(ConvertError):  # MidiTok's reader says what is wrong
        if parse_json(text, where, OBJECT).get("tokenization") == arrival.KIND:
            return arrival_from_json(text, where=where)
    return from_json(text, where=where)


def infer_tokenizer(model_folder: Path, vocab_size: int) -> SymbolicTokenizer:
    """Find the tokenizer of a checkpoint: its tokenizer.json, else the one that facts of the checkpoint imply.

    A model of 292 tokens takes the public base's. One of 55,028 whose attention is scaled by the number of the layer
    takes arrival-time tokens: the public bases of that kind have no tokenizer file.

    Args:
        model_folder: folder of the checkpoint.
        vocab_size: rows of the model's embedding; a padded one exceeds the tokenizer's size.

    Raises:
        DataError: no tokenizer is found, or it has more tokens than the model.
    """
    if find_tokenizer_file(model_folder):
        found = load_tokenizer(model_folder)
    elif vocab_size == PUBLIC_VOCAB:
        found = public_tokenizer()
        found.inferred = True
    elif vocab_size == arrival.VOCAB_SIZE and read_checkpoint(model_folder).config.scale_attn_by_inverse_layer_idx:
        found = ArrivalTokenizer(inferred=True)
    else:
        wanted = " (arrival, if it was trained on arrival-time tokens)" if vocab_size == arrival.VOCAB_SIZE else ""
        raise DataError(
            f"{model_folder}: a model of {vocab_size} tokens without a tokenizer.json beside it; "
            f"name its tokenizer with --tokenizer{wanted}"
        )
    check_fits(found, vocab_size)
    return found


def check_fits(tokenizer: SymbolicTokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer that does not fit the model.

    Raises:
        DataError: the tokenizer has more tokens than the model has embeddings.
    """
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"a tokenizer that does not fit: {tokenizer.kind} has {tokenizer.vocab_size} tokens, "
            f"the model {vocab_size}; use the tokenizer that the model was trained with"
        )
