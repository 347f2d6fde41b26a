"""Conditions of songs: whole chain of words against transformers and diffusers, batches, timbre, and bad folders."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acestep_folder import TURBO, write_model, write_text_encoder
from require import require

from musiclora.audio.acestep import encoding
from musiclora.audio.acestep.encoding import encode_songs, has_text_encoder
from musiclora.audio.acestep.song_text import SongText
from musiclora.backends.registry import get_backend
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.qwen3 import read_qwen3
from musiclora.errors import ConvertError
from musiclora.progress import Reporter

# Of the largest value: two networks in a row, each right to 2e-4.
RELATIVE = 4e-4
SONGS = [
    SongText("a tone", "la la la"),
    SongText("jazz", "", 120, "C major", "4/4", seconds=9.5),
    SongText("a much longer description of the music", "[Verse]\nla\n" * 9, language="de"),
    SongText("a tone", "la la la", repaint=True),
    SongText("waltz", "un deux trois", 90),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("encoding") / "model", codec=False)


@pytest.fixture
def backend(backend_name: str) -> str:
    require({"mlx": "mlx_lm", "torch": "diffusers"}[backend_name])
    return backend_name


def encode(model: Path, backend: str, texts: list[SongText], references: list[Any] | None = None) -> list[np.ndarray]:
    return encode_songs(texts, model, backend, references or [None] * len(texts), Reporter())


def near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


def test_the_chain_equals_the_pipelines(model: Path, backend: str) -> None:
    torch, transformers = require("torch"), require("transformers")
    diffusers, module = require("diffusers"), require("diffusers.pipelines.ace_step.modeling_ace_step")
    pipeline = diffusers.AceStepPipeline.__new__(diffusers.AceStepPipeline)
    parts = {
        "text_encoder": transformers.Qwen3Model.from_pretrained(model / "text_encoder").eval(),
        "tokenizer": transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(model / "text_encoder" / "tokenizer.json"), pad_token="<|endoftext|>"
        ),
    }
    for name, part in parts.items():
        object.__setattr__(pipeline, name, part)
    reference = condition_encoder(module, model, torch)
    text = SONGS[2]
    with torch.no_grad():
        words = pipeline.encode_prompt(text.caption, text.lyrics, torch.device("cpu"), text.language, 30.0)
        given = (words[0], words[1].long(), words[2], words[3].long())
        silence = reference.silence_latent[:, :750]
        expected, _ = reference(*given, silence, torch.zeros(1, dtype=torch.long))
    near(encode(model, backend, [text])[0], expected[0].numpy())


def condition_encoder(module: Any, model: Path, torch: Any) -> Any:
    """diffusers' condition encoder with the weights of a folder."""
    from musiclora.convert.models.acestep_names import rename_attention

    stack = TURBO.encoder
    found = module.AceStepConditionEncoder(
        hidden_size=stack.hidden,
        intermediate_size=stack.intermediate,
        text_hidden_dim=TURBO.text_dim,
        timbre_hidden_dim=TURBO.latent_dim,
        num_lyric_encoder_hidden_layers=TURBO.lyric_layers,
        num_timbre_encoder_hidden_layers=TURBO.timbre_layers,
        num_attention_heads=stack.heads,
        num_key_value_heads=stack.kv_heads,
        head_dim=stack.head_dim,
        sliding_window=TURBO.sliding_window,
    )
    tensors = {n: torch.from_numpy(np.array(v)) for n, v in read_acestep(model).tensors() if "decoder." not in n}
    state = {rename_attention(n.removeprefix("encoder.")): v for n, v in tensors.items()}
    state["silence_latent"] = state["silence_latent"][None]
    found.load_state_dict(state, strict=True)
    return found.eval()


def test_songs_in_batches_equal_songs_alone(model: Path, backend: str) -> None:
    timbre = np.random.default_rng(0).standard_normal((40, TURBO.latent_dim)).astype(np.float32)
    references = [None, timbre, None, None, timbre[:30]]
    together = encode(model, backend, SONGS, references)
    for i, (text, reference) in enumerate(zip(SONGS, references, strict=True)):
        near(together[i], encode(model, backend, [text], [reference])[0])
    assert {len(c) for c in together} != {len(together[0])}
    assert all(c.dtype == np.float32 and c.shape[1] == TURBO.encoder.hidden for c in together)


def test_caption_lyrics_and_timbre_change_the_condition(model: Path, backend: str) -> None:
    timbre = np.ones((40, TURBO.latent_dim), np.float32)
    same = SongText("a tune", "la la la")  # as long as the first
    words, other = SONGS[0], [SONGS[0], SongText("a tone", "la la lo"), same]
    found = encode(model, backend, [words, *other], [None, timbre, None, None])
    assert all(np.abs(found[0] - c).max() > 1e-3 for c in found[1:])


def test_only_one_network_is_in_memory_at_a_time(model: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made, most = get_backend(backend), list[weakref.ref[Any]](), list[int]()

    def count() -> int:
        return sum(own() is not None for own in made)

    class Counting:
        def load_text_encoder(self, folder: Path) -> Any:
            return self._count(real.load_text_encoder(folder))

        def load_condition_encoder(self, folder: Path) -> Any:
            return self._count(real.load_condition_encoder(folder))

        def _count(self, part: Any) -> Any:
            made.append(weakref.ref(getattr(part, "_network", part)))
            most.append(count())
            return part

    monkeypatch.setattr(encoding, "get_backend", lambda name: Counting())
    encode(model, backend, SONGS)
    assert most == [1, 1]
    assert not count()


def test_a_model_without_text_encoder_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", codec=False, text_encoder=False)
    assert not has_text_encoder(folder)
    with pytest.raises(ConvertError, match="has no text encoder"):
        encode(folder, "torch", SONGS[:1])


def test_a_model_with_one_has_it(model: Path) -> None:
    assert has_text_encoder(model)


@pytest.mark.parametrize("fault", ["tokenizer", "width", "shards"])
def test_a_text_encoder_that_does_not_fit_is_one_line(model: Path, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    inner = folder / "text_encoder"
    if fault == "tokenizer":
        (inner / "tokenizer.json").unlink()
    elif fault == "width":
        shutil.rmtree(inner)
        write_text_encoder(inner, TURBO.text_dim + 2)
    else:
        (inner / "model.safetensors").rename(inner / "model-00001-of-00002.safetensors")
    expected = {"tokenizer": "has no tokenizer.json", "width": "another model's text encoder", "shards": "shard 1 of 2"}
    with pytest.raises(ConvertError, match=expected[fault]) as error:
        has_text_encoder(folder)
    assert "\n" not in str(error.value)


def test_words_longer_than_the_encoder_reads_are_said(model: Path, backend: str) -> None:
    lines: list[str] = []

    class Ear(Reporter):
        def say(self, text: str) -> None:
            lines.append(text)

    (condition,) = encode_songs([SongText("x", "la " * 2000)], model, backend, [None], Ear())
    assert len(condition) < 2048 + 256 + 1 + 1
    assert lines == ["lyrics of 1 songs have more than 2048 tokens: their ends are left out"]
    assert read_qwen3(model / "text_encoder").config.hidden == TURBO.text_dim
