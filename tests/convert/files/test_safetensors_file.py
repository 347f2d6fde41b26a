"""Safetensors files, valid and damaged."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import (
    DTYPES,
    cast_tensor,
    iter_safetensors,
    non_finite,
    read_safetensors,
    safetensors_header,
    write_safetensors,
)

ARRAYS = {
    "odd.half": np.arange(3, dtype=np.float16),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "brain": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(7, np.int64),
    "flags": np.array([True, False, True]),
}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


def test_the_safetensors_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "ours", ARRAYS, {"format": "pt", "note": "ü"})
    assert same(load_file(tmp_path / "ours"), ARRAYS)
    save_file(ARRAYS, tmp_path / "theirs", {"format": "pt"})
    assert same(read_safetensors(tmp_path / "theirs"), ARRAYS)
    layout, metadata = safetensors_header(tmp_path / "ours")
    assert metadata == {"format": "pt", "note": "ü"}
    assert layout["matrix"] == (np.dtype("float32"), (2, 3))


def test_pairs_in_any_order_are_streamed_to_their_place_and_cast(tmp_path: Path) -> None:
    layout = {"a": (np.dtype("float16"), (2, 3)), "b": (np.dtype("float32"), (4,))}
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2).T, np.arange(4, dtype=np.float32)
    for k, pairs in enumerate([[("a", a), ("b", b)], [("b", b), ("a", a)]]):
        write_safetensors(tmp_path / str(k), iter(pairs), layout=layout)
        assert same(read_safetensors(tmp_path / str(k)), {"a": a.astype(np.float16), "b": b})


def test_streamed_tensors_that_do_not_fit_are_named_together(tmp_path: Path) -> None:
    layout = {name: (np.dtype("float32"), (2,)) for name in ("lost", "wide", "good")}
    pairs = [("good", np.zeros(2)), ("good", np.zeros(2)), ("wide", np.zeros(3)), ("extra", np.zeros(2))]
    with pytest.raises(ConvertError) as error:
        write_safetensors(tmp_path / "f", pairs, layout=layout)
    assert all(
        words in str(error.value)
        for words in ("good comes twice", "wide is [3]", "extra is surplus", "lost is missing")
    )


def test_only_the_named_tensors_are_read_and_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", ARRAYS)
    assert [name for name, _ in iter_safetensors(tmp_path / "f", {"matrix"})] == ["matrix"]
    with pytest.raises(ConvertError, match="nothere"):
        read_safetensors(tmp_path / "f", ["matrix", "nothere"])


def lie(header: Any, data: bytes = b"\0" * 8, claim: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claim is None else claim).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not a safetensors file"),
        (lie({}, b"", claim=2**60), "not a safetensors file"),
        (lie(b"{nonsense"), "header is not usable JSON"),
        (lie(b"[" * 100_000), "nested more than 64 levels deep"),
        (lie([1]), "expected an object"),
        (lie(b'{"a": 1, "a": 2}'), "duplicate names a"),
        (lie({"big": entry(0, 2**42, [2**40])}), "big claims bytes"),
        (lie({"odd": entry(0, 8, [3])}), "odd has 8 bytes"),
        (lie({"neg": entry(0, 8, [-2])}), "neg has a shape"),
        (lie({"rev": entry(8, 0, [2])}), "rev has data_offsets"),
        (lie({"true": entry(0, 8, [True, 2])}), "true has a shape"),
        (lie({"kind": entry(0, 8, [2], "F99")}), "kind has the unknown dtype"),
        (lie({"x": entry(0, 4, [1]), "y": entry(0, 4, [1])}), "y starts at byte 0"),
        (lie({"x": entry(0, 4, [1]), "z": entry(5, 8, [3], "U8")}), "z starts at byte 5"),
        (lie({"x": entry(0, 4, [1])}), "belong to none"),
        (lie({"x": entry(0, 8, [2])}, b"\0" * 7), "x claims bytes 0 to 8 of 7"),
        (lie({"x": entry(0, 8, [2]), "__metadata__": {"a": 1}}), "__metadata__"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_header_that_lies_is_one_error_that_names_the_tensor(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ConvertError, match=named.replace("[", r"\[")):
        safetensors_header(tmp_path / "f")


def test_a_value_too_large_for_the_dtype_is_an_error_and_not_an_infinity() -> None:
    big = np.array([1.0, 7e4], np.float32)
    with pytest.raises(ConvertError, match="w: its largest value 7e\\+04 does not fit float16"):
        cast_tensor("w", big, np.dtype("float16"))
    assert cast_tensor("w", big, DTYPES["BF16"]).dtype == ml_dtypes.bfloat16
    assert cast_tensor("w", big, np.dtype("float32")) is big


def test_non_finite_values_are_counted_and_integers_are_not_asked() -> None:
    assert non_finite("w", np.array([np.nan, 1, np.inf], np.float32)) == "w has 2 non-finite values"
    assert non_finite("w", np.array([np.nan], ml_dtypes.bfloat16)) == "w has 1 non-finite value"
    assert non_finite("w", np.arange(3)) is None
