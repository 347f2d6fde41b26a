"""Damaged weight files: an error of ours, or still a file."""

import io
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musiclora.convert.errors import MusicLoraError
from musiclora.convert.files.safetensors_file import (
    read_safetensors,
    safetensors_header,
    write_safetensors,
)
from musiclora.convert.files.torch_file import TorchFile

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _trouble(*calls: Callable[[], object]) -> str | None:
    """Return the text of the first MusicLoraError, None where all calls succeed; other exceptions fail the test."""
    try:
        for call in calls:
            call()
    except MusicLoraError as error:
        return str(error)
    return None


def _damaged(data: st.DataObject, content: bytes) -> bytes:
    """Change, cut or double some bytes of the content."""
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set" and damaged:
            damaged[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[place : place + data.draw(st.integers(1, 50))]
        else:
            damaged[place:place] = data.draw(st.binary(max_size=9))
    return bytes(damaged)


@many
@given(st.data())
def test_damaged_safetensors_are_an_error_of_ours_or_still_a_file(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        write_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"})
        path.write_bytes(_damaged(data, path.read_bytes()))
        message = _trouble(lambda: safetensors_header(path), lambda: read_safetensors(path))
        assert message is None or str(path) in message
        if message is None:
            layout = {name: (array.dtype, array.shape) for name, array in read_safetensors(path).items()}
            assert layout == safetensors_header(path)[0]


@many
@given(st.data())
def test_damaged_torch_files_are_an_error_of_ours_or_still_a_file(data: st.DataObject) -> None:
    content = pickle.dumps(
        {"a": [1, 2.5, None, {"b": "text"}], "c": (True, b"x")}, protocol=data.draw(st.integers(0, 5))
    )
    if data.draw(st.booleans()):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", _damaged(data, content))
            archive.writestr("archive/data/0", bytes(24))
        content = buffer.getvalue()
        if data.draw(st.booleans()):
            content = _damaged(data, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.pt"
        path.write_bytes(content)
        message = _trouble(lambda: [list(f.read(f.tensors().items())) for f in (TorchFile(path),)])
        assert message is None or str(path) in message
