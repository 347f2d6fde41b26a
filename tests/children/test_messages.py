"""Messages between processes: values and arrays come back as they were, and hostile bytes are refused."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from musiclora.children.messages import MessageError, receive, send


def framed(head: bytes, body: bytes = b"") -> io.BytesIO:
    return io.BytesIO(len(head).to_bytes(8, "big") + head + body)


def test_values_and_arrays_come_back_as_they_were():
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": [np.zeros(0, np.float32), np.array([True, False])]}
    stream = io.BytesIO()
    send(stream, {"name": "\udcff二", "none": None, "half": 0.5, **arrays})
    send(stream, "second")
    stream.seek(0)
    found = receive(stream)

    assert (found["name"], found["none"], found["half"]) == ("\udcff二", None, 0.5)
    for one, other in zip([found["a"], *found["b"]], [arrays["a"], *arrays["b"]], strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert receive(stream) == "second"


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize(
    "stream",
    [
        io.BytesIO(b""),
        io.BytesIO(b"\x00" * 7),
        io.BytesIO(b"\xff" * 16),
        framed(pickle.dumps(Hostile())),
        framed(b"[" * 100_000),
        framed(b'["x", [["object", [1]]]]', bytes(8)),
        framed(b'["x", [["float64", [-1]]]]'),
        framed(b'["x", [["float64", [1e9]]]]'),
        framed(b'["x", [["float64", [99999999999]]]]'),
        framed(b'["x", [["int8", [10]]]]', b"short"),
        framed(b'[{"__array__": 3}, []]'),
        framed(b'["x"]'),
        framed(b'{"x": 1}'),
    ],
    ids=[
        *("ended", "cut off", "huge", "pickle", "deep", "objects", "negative shape", "fraction", "huge array"),
        *("short array", "missing array", "no shapes", "no list"),
    ],
)
def test_what_is_no_message_is_refused(stream):
    with pytest.raises(MessageError):
        receive(stream)


def test_only_arrays_and_plain_values_can_be_sent():
    with pytest.raises(TypeError, match="set"):
        send(io.BytesIO(), {"a": {1}})
