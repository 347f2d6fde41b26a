"""Styles beside adapters: added up from where they began, whatever their shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from musiclora.adapters import Adapter
from musiclora.audio.style_files import STYLE_FILE, blended_arrays, blended_style, carry_style, read_style
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.errors import ConvertError

NULL = np.array([1.0, 2.0], np.float32)


def adapter(folder: Path, strength: float, **arrays: np.ndarray) -> Adapter:
    folder.mkdir()
    if arrays:
        write_safetensors(folder / STYLE_FILE, {k: np.asarray(v, np.float32) for k, v in arrays.items()})
    return Adapter(folder, strength, LoraSpec(1, 1.0, 0.0, ("a",)), {}, "", {})


def test_style_vectors_are_added_from_zero(tmp_path: Path) -> None:
    found = [
        adapter(tmp_path / "a", 0.5, style=np.array([2.0, 4.0])),
        adapter(tmp_path / "b", -1.0, style=np.array([1.0, 0.0])),
        adapter(tmp_path / "c", 3.0),
    ]
    np.testing.assert_array_equal(blended_style(found), [0, 2])
    assert blended_style(found[2:]) is None


def test_trained_conditions_are_added_from_the_null_condition(tmp_path: Path) -> None:
    rows = np.array([[3.0, 2.0], [1.0, 6.0]])
    one = adapter(tmp_path / "a", 0.5, style=rows, origin=NULL)
    np.testing.assert_array_equal(blended_style([one]), [[2, 2], [1, 4]])
    off = adapter(tmp_path / "b", 0.0, style=rows, origin=NULL)
    np.testing.assert_array_equal(blended_style([off]), [NULL, NULL])
    both = blended_arrays([one, adapter(tmp_path / "c", 1.0, style=rows + 1, origin=NULL)])
    assert both is not None
    np.testing.assert_array_equal(both["style"], [[5, 3], [2, 9]])
    np.testing.assert_array_equal(both["origin"], NULL)


def test_a_converted_adapter_keeps_both(tmp_path: Path) -> None:
    adapter(tmp_path / "a", 1.0, style=np.ones((3, 2)), origin=NULL)
    (tmp_path / "out").mkdir()
    assert carry_style(tmp_path / "a", tmp_path / "out") == []
    assert set(read_safetensors(tmp_path / "out" / STYLE_FILE)) == {"style", "origin"}


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"other": np.ones(3)}, "expected one array `style`"),
        ({"style": np.ones((2, 2, 2))}, "expected one array `style`"),
        ({"style": np.full(3, np.inf)}, "expected one array `style`"),
        ({"style": np.ones((2, 3)), "origin": np.ones(2)}, r"`origin` has shape \[2\], expected \[3\]"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], match: str) -> None:
    path = adapter(tmp_path / "a", 1.0, **arrays).path
    with pytest.raises(ConvertError, match=match):
        read_style(path / STYLE_FILE)


def test_styles_of_two_shapes_cannot_be_added(tmp_path: Path) -> None:
    found = [adapter(tmp_path / "a", 1.0, style=np.ones(4)), adapter(tmp_path / "b", 1.0, style=np.ones((2, 4)))]
    with pytest.raises(ConvertError, match=r"has shape \[2, 4\], that of .* \[4\]: they cannot be added"):
        blended_style(found)
