"""Prompts and lyrics of songs: text and tokens equal to those of diffusers' pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acestep_folder import write_tokenizer
from require import require

from musiclora.audio.acestep.prompts import MAX_LYRICS_TOKENS, MAX_PROMPT_TOKENS, Words, lyrics_of, prompt_of
from musiclora.audio.acestep.song_text import SongText
from musiclora.errors import ConvertError

SONGS = {
    "bare": SongText("a tone", "la la la"),
    "facts": SongText("Jazz, café 夜", "[Verse]\nla\n\n[Chorus]\nlo", 120, "C major", "4/4", "fr", 61.9),
    "waltz": SongText("waltz", "un\ndeux", 90, "F# minor", "3", "zh", 0.4),
    "long": SongText("word " * 100, "la la la\n" * 300, seconds=600.0),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def ids_of_pipeline(folder: Path, text: SongText, **more: Any) -> tuple[list[int], list[int]]:
    """Run the pipeline's own `encode_prompt` with an encoder that gives back the ids."""
    torch, transformers = require("torch"), require("transformers")
    pipeline_class = require("diffusers").AceStepPipeline

    class Ids:
        def __call__(self, input_ids: Any) -> Any:
            return type("Output", (), {"last_hidden_state": input_ids})

        def get_input_embeddings(self) -> Any:
            return lambda ids: ids

    pipeline = pipeline_class.__new__(pipeline_class)
    object.__setattr__(pipeline, "text_encoder", Ids())
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    object.__setattr__(pipeline, "tokenizer", tokenizer)
    signature = None if text.time_signature is None else text.time_signature.partition("/")[0]
    prompt, _, lyrics, _ = pipeline.encode_prompt(
        text.caption,
        text.lyrics,
        torch.device("cpu"),
        text.language,
        text.seconds,
        bpm=text.bpm,
        keyscale=text.key,
        timesignature=signature,
        **more,
    )
    return prompt[0].tolist(), lyrics[0].tolist()


@pytest.mark.parametrize("name", SONGS)
def test_tokens_equal_those_of_the_pipeline(folder: Path, name: str) -> None:
    text, words = SONGS[name], Words(folder / "tokenizer.json")
    prompt, lyrics = ids_of_pipeline(folder, text)
    assert words.prompts([text])[0].tolist() == prompt
    assert words.lyrics([text])[0].tolist() == lyrics


def test_a_repaints_instruction_is_the_pipelines(folder: Path) -> None:
    instruction = require("diffusers.pipelines.ace_step.pipeline_ace_step").TASK_INSTRUCTIONS["repaint"]
    text = SongText("a tone", "la", repaint=True)
    prompt, _ = ids_of_pipeline(folder, text, instruction=instruction)
    assert Words(folder / "tokenizer.json").prompts([text])[0].tolist() == prompt


def test_long_words_are_cut_and_keep_their_last_token(folder: Path) -> None:
    words = Words(folder / "tokenizer.json")
    (prompt,), (lyrics,) = words.prompts([SONGS["long"]]), words.lyrics([SONGS["long"]])
    assert (len(prompt), len(lyrics)) == (MAX_PROMPT_TOKENS, MAX_LYRICS_TOKENS)
    assert prompt[-1] == lyrics[-1] == words.prompts([SONGS["bare"]])[0][-1]
    assert prompt.dtype == np.int32


def test_songs_of_one_call_are_not_padded(folder: Path) -> None:
    words = Words(folder / "tokenizer.json")
    together = words.lyrics(list(SONGS.values()))
    for text, own in zip(SONGS.values(), together, strict=True):
        np.testing.assert_array_equal(own, words.lyrics([text])[0])


def test_music_without_lyrics_has_the_mark_of_instrumental_music() -> None:
    assert lyrics_of(SongText("x", " \n")) == "# Languages\nen\n\n# Lyric\n[Instrumental]<|endoftext|>"


def test_facts_that_are_missing_are_said_to_be() -> None:
    assert "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 12 seconds\n" in prompt_of(
        SongText("x", seconds=12.9)
    )


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}', "[]"])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConvertError, match="no readable tokenizer") as error:
        Words(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
