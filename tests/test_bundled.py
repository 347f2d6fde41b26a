"""The music that comes with the package."""

import json
import re

from musiclora.bundled import BUNDLED, bundled_tunes
from musiclora.data import corpora


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


def without_number(text):
    return re.sub(r"\s+", " ", text.split("\n", 1)[1]).strip()
