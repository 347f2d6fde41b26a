"""The music that comes with the package."""

import json
import math
import re

from musiclora.bundled import BUNDLED, bundled_tunes
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.demo import corpora
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer


def test_bundled_tunes_are_at_least_24_and_each_has_source_and_terms():
    paths = bundled_tunes()
    sources = json.loads((BUNDLED / "tunes" / "sources.json").read_text(encoding="utf-8"))

    assert len(paths) >= 24
    assert sorted(sources["tunes"]) == [path.name for path in paths]
    assert all(sources[key] for key in ("print", "year", "terms", "source"))


def test_bundled_tunes_keep_the_transcribers_header():
    for path in bundled_tunes():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("X:1\nT:"), path.name
        assert "\nZ:Jack Campin" in text, path.name


def test_bundled_tunes_are_what_the_music21_wheel_holds():
    sources = json.loads((BUNDLED / "tunes" / "sources.json").read_text(encoding="utf-8"))
    known = {tune.number: without_number(tune.text) for tune in corpora.corpus_tunes("northumbrian")}

    for path in bundled_tunes():
        number = sources["tunes"][path.name]["number_in_source"]
        assert known[number].startswith(without_number(path.read_text(encoding="utf-8"))), path.name


def test_bundled_base_has_the_promised_size_and_the_tokenizer_it_was_trained_with():
    folder = BUNDLED / "symbolic"

    base = read_checkpoint(folder)

    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert 4.5e6 < sum(math.prod(shape) for shape in base.config.tensor_shapes().values()) < 5.5e6
    assert load_tokenizer(folder).to_json() == own_tokenizer().to_json()
    assert base.config.vocab_size == own_tokenizer().vocab_size


def test_bundled_base_has_a_card_with_data_terms_loss_and_copying():
    card = (BUNDLED / "symbolic" / "README.md").read_text(encoding="utf-8")

    for said in ("license: apache-2.0", "public domain", "Northumbrian", "bits a note", "How much it copies"):
        assert said in card


def without_number(text):
    return re.sub(r"\s+", " ", text.split("\n", 1)[1]).strip()
