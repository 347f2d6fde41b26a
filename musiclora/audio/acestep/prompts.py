"""Words of a song as ACE-Step's text encoder reads them: prompt, lyrics, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.acestep.lyrics import INSTRUMENTAL
from musiclora.audio.acestep.song_text import SongText
from musiclora.errors import ConvertError

TOKENIZER = "tokenizer.json"
MAX_PROMPT_TOKENS, MAX_LYRICS_TOKENS = 256, 2048  # what follows is cut off, as by upstream and diffusers
_END, _UNKNOWN = "<|endoftext|>", "N/A"
_MAKE = "Fill the audio semantic mask based on the given conditions:"
_REPAINT = "Repaint the mask area based on the given conditions:"
_UNKNOWN_SECONDS = 30  # stated where the length is not known


def prompt_of(text: SongText) -> str:
    """Format instruction, caption and facts of a song.

    Source: the template of diffusers' AceStepPipeline, which the encoders were trained with; every line end counts.
    """
    facts = {
        "bpm": str(text.bpm) if text.bpm else _UNKNOWN,
        "timesignature": (text.time_signature or "").partition("/")[0].strip() or _UNKNOWN,
        "keyscale": (text.key or "").strip() or _UNKNOWN,
        "duration": f"{int(text.seconds) if text.seconds > 0 else _UNKNOWN_SECONDS} seconds",
    }
    lines = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    instruction = _REPAINT if text.repaint else _MAKE
    return f"# Instruction\n{instruction}\n\n# Caption\n{text.caption}\n\n# Metas\n{lines}{_END}\n"


def lyrics_of(text: SongText) -> str:
    """Format language and lyrics of a song; music without words has a mark in their place.

    Source: as `prompt_of`.
    """
    return f"# Languages\n{text.language}\n\n# Lyric\n{text.lyrics if text.lyrics.strip() else INSTRUMENTAL}{_END}"


class Words:
    """Tokenizer of prompts and lyrics.

    Args:
        file: `tokenizer.json` of the text encoder. Its other files are not needed.

    Raises:
        ConvertError: it is damaged.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:
            if type(error) is not Exception:  # that library raises nothing more specific
                raise
            raise ConvertError(f"{file}: no readable tokenizer ({str(error).splitlines()[0]})") from error
        self._tokenizer.no_padding()

    def prompts(self, texts: Sequence[SongText]) -> list[np.ndarray]:
        """Tokenise the prompt of each song, int32 [n], n at most 256."""
        return self._tokens([prompt_of(text) for text in texts], MAX_PROMPT_TOKENS)

    def lyrics(self, texts: Sequence[SongText]) -> list[np.ndarray]:
        """Tokenise the lyrics of each song, int32 [n], n at most 2048."""
        return self._tokens([lyrics_of(text) for text in texts], MAX_LYRICS_TOKENS)

    def _tokens(self, lines: Sequence[str], most: int) -> list[np.ndarray]:
        self._tokenizer.enable_truncation(most)
        return [np.array(found.ids, np.int32) for found in self._tokenizer.encode_batch(list(lines))]
