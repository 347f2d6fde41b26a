"""The copy index of an adapter folder: what it finds, and files that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from melodies import changed, inserted, tune

from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.errors import MusicLoraError
from musiclora.evaluation.copies.index_file import copy_index_bytes, identify_songs, read_copy_index
from musiclora.evaluation.copies.meter import CopyMeter

SONGS = [tune(i) for i in range(15)]
HELD_OUT = [tune(i) for i in range(20, 26)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "copy_index.safetensors"
    path.write_bytes(copy_index_bytes(SONGS, HELD_OUT, "a"))
    return path


def test_an_index_finds_copies_without_naming_songs(path):
    meter = read_copy_index(path, "a")
    found = meter.measure(inserted(tune(40), SONGS[6], first_bar=2, bars=4, at_bar=10))
    assert found.copied
    assert (found.song, found.song_bars) == (None, None)
    assert found.bars[0] in (10, 11)
    assert meter.measure(changed(SONGS[1], semitones=3, tempo=1.5, edit="change")).copied
    assert not any(meter.measure(tune(seed)).copied for seed in range(60, 80))


def test_an_index_has_the_same_scale_after_reading(path):
    lengths = read_copy_index(path, "a").reference.lengths
    assert len(lengths) == 6
    assert read_copy_index(path, "a").reference.held_out
    exact = CopyMeter.from_songs(SONGS, HELD_OUT).reference.lengths
    assert np.abs(np.array(lengths) - exact).max() <= 3  # the order of n-grams is not known, nor are edits crossed


def test_an_index_holds_neither_names_nor_the_order_of_n_grams(path):
    content = path.read_bytes()
    assert not any(song.name.encode() in content for song in SONGS)
    hashes = read_safetensors(path)["hashes"].astype(np.int64)
    assert (np.diff(hashes) >= 0).all()


def test_an_adapter_that_started_from_another_keeps_its_songs(path, tmp_path):
    later = tmp_path / "later.safetensors"
    later.write_bytes(copy_index_bytes([tune(i) for i in range(30, 40)], HELD_OUT, "b", earlier=path))
    meter = read_copy_index(later, "b")
    assert meter.measure(changed(SONGS[4], semitones=1)).copied
    assert meter.measure(changed(tune(33), semitones=1)).copied
    assert not meter.measure(tune(70)).copied


def test_songs_without_an_n_gram_give_no_index():
    assert copy_index_bytes([], HELD_OUT, "a") == b""


def test_the_identity_of_songs_does_not_depend_on_their_order():
    assert identify_songs(["b", "a", "a"]) == identify_songs(["a", "b"]) != identify_songs(["a"])


def test_the_index_of_another_adapter_is_refused(path):
    with pytest.raises(MusicLoraError, match="copy index of another adapter"):
        read_copy_index(path, "b")


def _rewrite(path, change):
    arrays, (_, metadata) = read_safetensors(path), safetensors_header(path)
    change(arrays, metadata)
    path.unlink()
    write_safetensors(path, arrays, metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays, meta: meta.pop("copy_index"), "is no copy index"),
        (lambda arrays, meta: meta.pop("identity"), "is no copy index"),
        (lambda arrays, meta: meta.update(copy_index="2"), "a copy index of format 2"),
        (lambda arrays, meta: meta.update(notes="nan"), "damaged"),
        (lambda arrays, meta: meta.update(notes="many"), "damaged"),
        (lambda arrays, meta: meta.pop("duplicates"), "damaged"),
        (lambda arrays, meta: arrays.pop("songs"), "damaged"),
        (lambda arrays, meta: arrays.update(songs=arrays["songs"][:-1]), "damaged"),
        (lambda arrays, meta: arrays.update(songs=arrays["songs"] | np.uint32(1 << 31)), "damaged"),
        (lambda arrays, meta: arrays.update(hashes=arrays["hashes"][::-1].copy()), "damaged"),
        (lambda arrays, meta: arrays.update(hashes=arrays["hashes"].astype(np.int64)), "damaged"),
        (lambda arrays, meta: arrays.update(hashes=arrays["hashes"][:0], songs=arrays["songs"][:0]), "damaged"),
        (lambda arrays, meta: arrays.update(lengths=-1 - arrays["lengths"]), "damaged"),
        (lambda arrays, meta: arrays.update(shares=arrays["shares"] * np.float32("nan")), "damaged"),
    ],
)
def test_damaged_indexes_are_refused(path, change, said):
    _rewrite(path, change)
    with pytest.raises(MusicLoraError, match=said):
        read_copy_index(path, "a")


def test_a_cut_off_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(MusicLoraError):
        read_copy_index(path, "a")
