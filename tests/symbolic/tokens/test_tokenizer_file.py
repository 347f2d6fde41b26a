"""Damaged and oversized settings of tokenizer.json."""

from __future__ import annotations

import json

import pytest

from musiclora.errors import MusicLoraError
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer


@pytest.mark.parametrize(
    "model",
    [
        "",
        "{",
        "[" * 5000,
        "false",
        "{}",
        '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}',
    ],
    ids=["empty", "cut", "deep", "no object", "no model", "unknown tokens"],
)
def test_a_damaged_model_of_merged_tokens_is_refused(model, tmp_path):
    own_tokenizer().save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"_model": model}))
    with pytest.raises(MusicLoraError, match="its _model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"beat_res": {"0_9999": 1024}},
        {"num_velocities": 10**9},
        {"num_tempos": 10**8},
        {"pitch_range": [0, 10**9]},
        {"time_signature_range": {"4": [10**9]}},
        {"additional_params": {"max_bar_embedding": 10**9}},
        {"max_pitch_interval": 10**9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_would_make_millions_of_tokens_are_refused(change, tmp_path):
    own_tokenizer().save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["config"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(MusicLoraError, match=f"config.{next(iter(change))}"):
        load_tokenizer(tmp_path)
