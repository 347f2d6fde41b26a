"""Style vectors of files, and of words and recordings with MuQ-MuLan."""

from __future__ import annotations

import numpy as np
import pytest
from require import require

from musiclora.audio.diffrhythm.style import read_middle, style_of_file, style_of_recording, style_of_words
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.errors import ConfigError, DataError, MusicLoraError

soundfile = require("soundfile")
VECTOR = np.linspace(-1, 1, 512).astype(np.float32)


@pytest.mark.parametrize("shape", [(512,), (1, 512)])
@pytest.mark.parametrize("kind", ["safetensors", "npy", "npy half", "pt"])
def test_a_style_is_read_from_every_kind_of_file(tmp_path, kind, shape):
    values = VECTOR.reshape(shape)
    path = tmp_path / f"style.{kind.split()[0]}"
    if kind == "safetensors":
        write_safetensors(path, {"style": values})
    elif kind == "pt":
        torch = require("torch")
        torch.save(torch.from_numpy(values), path)
    else:
        np.save(path, values.astype(np.float16 if "half" in kind else np.float32))
    np.testing.assert_allclose(style_of_file(path), VECTOR, atol=1e-3 if "half" in kind else 0)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    (tmp_path / "style.pt").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "style.npy", np.array([Evil()], object), allow_pickle=True)
    for name in ("style.pt", "style.npy"):
        with pytest.raises(MusicLoraError, match=name):
            style_of_file(tmp_path / name)


def test_a_numpy_file_with_a_damaged_header_is_refused(tmp_path):
    np.save(tmp_path / "style.npy", VECTOR)
    data = (tmp_path / "style.npy").read_bytes()
    (tmp_path / "style.npy").write_bytes(data.replace(b")", b" ", 1))
    with pytest.raises(DataError, match="no numpy file of numbers, or a damaged one"):
        style_of_file(tmp_path / "style.npy")


def test_the_middle_of_a_recording_is_mono_at_the_rate_asked_for(tmp_path):
    rate = 44100
    left = np.concatenate([np.zeros(10 * rate), np.full(10 * rate, 0.4), np.zeros(10 * rate)])
    soundfile.write(tmp_path / "a.wav", np.stack([left, left / 2], 1), rate)
    audio = read_middle(tmp_path / "a.wav", 10.0, 24000)
    assert audio.shape == (240_000,)
    np.testing.assert_allclose(audio[200:-200], 0.3, atol=0.01)
    with pytest.raises(DataError, match="too short"):
        read_middle(tmp_path / "a.wav", 31.0, 24000)


def test_words_need_their_package(monkeypatch):
    from musiclora.audio.diffrhythm import style as styles

    monkeypatch.setattr(styles, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="muq and torch"):
        style_of_words("calm piano")


_STAND_IN = """
import torch
class MuQMuLan:
    @classmethod
    def from_pretrained(cls, name):
        if cls.fails:
            raise OSError("no network")
        return cls()
    def eval(self):
        return self
    def __call__(self, wavs=None, texts=None):
        assert (wavs is None) != (texts is None)
        if texts is not None:
            return torch.full((len(texts), 512), float(len(texts[0])))
        assert wavs.shape == (1, 240000) and wavs.dtype == torch.float32
        return torch.full((1, 512), wavs.mean().item())
"""


@pytest.mark.parametrize("fails", [False, True], ids=["weights there", "weights missing"])
def test_the_package_is_called_as_its_own_page_says(tmp_path, monkeypatch, fails):
    require("torch")
    (tmp_path / "muq.py").write_text(f"{_STAND_IN}MuQMuLan.fails = {fails}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "muq", raising=False)
    from musiclora.backends.torch import muq

    muq._encoder.cache_clear()
    soundfile.write(tmp_path / "a.wav", np.full((44100 * 12, 2), 0.25), 44100)
    try:
        if fails:
            with pytest.raises(ConfigError, match="no network"):
                style_of_words("calm piano")
            return
        for vector in (style_of_words("calm piano"), style_of_recording(tmp_path / "a.wav")):
            np.testing.assert_allclose(vector, 512**-0.5, rtol=1e-4)
    finally:
        muq._encoder.cache_clear()
        __import__("sys").modules.pop("muq", None)
