"""Types and limits of MidiTok's tokenizer.json, within which building the tokenizer takes a moment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from musiclora.convert.errors import DataError, show_value
from musiclora.convert.files.json_file import (
    BOOLEAN,
    COUNT,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    integer_between,
    list_of,
    map_of,
    object_with,
    parse_json,
)

if TYPE_CHECKING:
    pass

_MOST_POSITIONS = 20_000  # of all beat ranges together; real tokenizers have hundreds
_SEVERAL = integer_between(1, 1024)
_BEATS = re.compile(r"(\d{1,4})_(\d{1,4})", re.ASCII)
_NUMERATORS = re.compile(r"\d{1,3}", re.ASCII)


def _beat_problems(value: object, place: str) -> list[str]:
    problems = map_of(_SEVERAL).problems(value, place)
    if problems or not isinstance(value, dict):
        return problems
    spans = {key: _BEATS.fullmatch(key) for key in value}
    if wrong := [key for key, span in spans.items() if not span]:
        return [f"{place} has the key {show_value(wrong[0])}, expected beats such as 0_4"]
    positions = sum((int(span[2]) - int(span[1])) * value[key] for key, span in spans.items() if span)
    return [f"{place} makes {positions} positions, at most {_MOST_POSITIONS}"] if positions > _MOST_POSITIONS else []


def _metre_problems(value: object, place: str) -> list[str]:
    problems = map_of(list_of(integer_between(1, 256))).problems(value, place)
    if problems or not isinstance(value, dict):
        return problems
    wrong = [key for key in value if not _NUMERATORS.fullmatch(key)]
    return [f"{place} has the key {show_value(wrong[0])}, expected a note value such as 4"] if wrong else []


_PITCHES = list_of(integer_between(0, 128))
_PROGRAMS = list_of(integer_between(-1, 128))
_RESOLUTIONS = Kind("resolutions by beats", _beat_problems)
_SWITCHES = (
    "delete_equal_successive_tempo_changes",
    "delete_equal_successive_time_sig_changes",
    "log_tempos",
    "one_token_stream_for_programs",
    "program_changes",
    "remove_duplicated_notes",
    "sustain_pedal_duration",
    "use_chords",
    "use_control_changes",
    "use_key_signatures",
    "use_pitch_bends",
    "use_pitch_intervals",
    "use_pitchdrum_tokens",
    "use_programs",
    "use_rests",
    "use_sustain_pedals",
    "use_tempos",
    "use_time_signatures",
    "use_velocities",
)
_EXTRA = object_with(
    {
        "max_bar_embedding": integer_between(1, 10_000) | NULL,
        "ticks_per_quarter": integer_between(1, 10_000),
        "num_microtiming_bins": integer_between(0, 1024) | NULL,
        "max_microtiming_shift": NUMBER | NULL,
        "use_microtiming": BOOLEAN,
        "base_tokenizer": TEXT,
    }
)
_CONFIG = object_with(
    {
        "pitch_range": _PITCHES,
        "drums_pitch_range": _PITCHES,
        "beat_res": _RESOLUTIONS,
        "beat_res_rest": _RESOLUTIONS,
        "num_velocities": integer_between(1, 128),
        "num_tempos": _SEVERAL,
        "control_change_n_bins": _SEVERAL,
        "tempo_range": list_of(NUMBER),
        "time_signature_range": Kind("numerators by note value", _metre_problems),
        "pitch_bend_range": list_of(integer_between(-8192, 8192)),
        "max_pitch_interval": integer_between(0, 128),
        "pitch_intervals_max_time_dist": NUMBER,
        "default_note_duration": NUMBER,
        "special_tokens": list_of(TEXT),
        "encode_ids_split": TEXT,
        "chord_maps": map_of(list_of(integer_between(0, 128))),
        "chord_unknown": list_of(integer_between(0, 128)) | NULL,
        "programs": _PROGRAMS,
        "use_note_duration_programs": _PROGRAMS,
        "control_change_numbers": list_of(integer_between(0, 128)),
        "ac_polyphony_min": integer_between(0, 128),
        "ac_polyphony_max": integer_between(0, 128),
        "ac_note_density_track_min": integer_between(0, 1024),
        "ac_note_density_track_max": integer_between(0, 1024),
        "ac_note_density_bar_max": integer_between(0, 1024),
        "additional_params": _EXTRA,
        **dict.fromkeys(_SWITCHES, BOOLEAN),
    }
)
TOKENIZER_KIND = object_with(
    {
        "tokenization": TEXT,
        "config": _CONFIG,
        "_vocab_base": map_of(COUNT) | list_of(map_of(COUNT)),
        "_model": TEXT | NULL,
        "_vocab_base_byte_to_token": map_of(TEXT) | NULL,
    },
    ("tokenization",),
)


def check_learnt_model(text: str, where: str) -> None:
    """Refuse a damaged model of merged tokens, which a tokenizer holds as a text in the format of `tokenizers`.

    Raises:
        ConvertError, DataError: it is damaged.
    """
    parse_json(text, f"{where}: its _model", OBJECT)
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # that library raises nothing more specific
            raise
        raise DataError(f"{where}: its _model is damaged: {error}") from error
