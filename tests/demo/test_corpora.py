"""Reading folk tunes from the music21 wheel; every test of a real corpus fails loudly where music21 is missing."""

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from musiclora.demo import corpora
from musiclora.errors import DataError

# Counted with grep '^X:' in the files of music21 10.5.
TUNE_COUNTS = {"aird": 1180, "ryan": 1059, "oneill": 2009, "northumbrian": 129, "han": 1224}


@pytest.fixture
def fake_music21(tmp_path, monkeypatch):
    """An installed music21 whose corpus is a folder of ours."""
    package = tmp_path / "music21"
    (package / "corpus").mkdir(parents=True)
    spec = ModuleSpec("music21", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return package / "corpus"


@pytest.mark.parametrize(("name", "count"), TUNE_COUNTS.items(), ids=TUNE_COUNTS)
def test_corpus_tunes_lists_every_tune_of_the_wheel_once(name, count):
    tunes = corpora.corpus_tunes(name)

    assert len(tunes) == count
    assert len({tune.name for tune in tunes}) == count
    assert all(tune.text.startswith("X:") and tune.text.count("\nX:") == 0 for tune in tunes)


def test_han_folk_songs_come_in_a_fixed_order_and_carry_their_terms():
    songs = corpora.han_folk_songs()

    assert (songs[0].name, songs[0].title) == ("han-han1-001", "Renmin gongshe shizai hao")
    assert songs[554].source == "essenFolksong/han2.abc"
    assert {song.terms for song in songs} == {corpora.ESSEN_TERMS}
    assert "non-commercial" in corpora.ESSEN_TERMS


def test_base_tunes_come_only_from_the_three_public_domain_books():
    folders = {tune.source.split("/")[0] for tune in corpora.base_tunes()}

    assert folders == {"airdsAirs", "ryansMammoth", "oneills1850"}


def test_corpus_folder_is_found_without_importing_music21():
    code = "import sys; from musiclora.demo import corpora; corpora.corpus_folder(); print('music21' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_corpus_folder_without_music21_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(DataError, match=r"musiclora\[demo\]"):
        corpora.corpus_folder()


def test_corpus_folder_of_a_wheel_without_corpus_says_so(fake_music21):
    fake_music21.rmdir()

    with pytest.raises(DataError, match="without its corpus"):
        corpora.corpus_folder()


def test_corpus_tunes_with_a_file_missing_names_it(fake_music21):
    with pytest.raises(DataError, match=r"northumbrianminstrelsyopus\.abc"):
        corpora.corpus_tunes("northumbrian")


def test_corpus_tunes_of_an_unknown_corpus_lists_the_known_ones():
    with pytest.raises(DataError, match=r"'nottingham'.*known: aird, ryan"):
        corpora.corpus_tunes("nottingham")


def test_corpus_tunes_skips_entries_without_notes_and_reads_latin_1(fake_music21):
    folder = fake_music21 / "airdsAirs"
    folder.mkdir()
    text = "% a preface\nX:1\nT:Caf\xe9\nK:C\nCDE|\n\nX:2\nT:Words only\nW:no music\n\nX:30\nT:Last\nK:G\nw:ga\nG2|\n"
    (folder / "book1.abc").write_bytes(text.encode("latin-1"))

    tunes = corpora.corpus_tunes("aird")

    assert [(t.name, t.title, t.number) for t in tunes] == [("aird-book1-1", "Café", 1), ("aird-book1-3", "Last", 30)]
    assert tunes[0].text == "X:1\nT:Café\nK:C\nCDE|\n"


def test_write_tunes_makes_one_file_a_tune_numbered_one(tmp_path):
    tune = corpora.CorpusTune("a-7", "Seven", 7, "X: 7\nT:Seven\nK:C\nC|\n", "a.abc", "none")

    (path,) = corpora.write_tunes([tune], tmp_path / "new")

    assert path.name == "a-7.abc"
    assert path.read_text(encoding="utf-8") == "X:1\nT:Seven\nK:C\nC|\n"


def test_order_by_seed_is_a_permutation_that_depends_on_the_seed():
    tunes = corpora.corpus_tunes("northumbrian")

    first, again, other = (corpora.order_by_seed(tunes, seed) for seed in (1, 1, 2))

    assert first == again != other
    assert sorted(t.name for t in first) == [t.name for t in tunes]
