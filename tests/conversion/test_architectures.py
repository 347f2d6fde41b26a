"""Another architecture: conversion finds its functions by its record alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musiclora.cli.convert import ADAPTER_FORMATS
from musiclora.conversion import model as model_conversion
from musiclora.conversion.model import convert_model
from musiclora.conversion.protocols import ModelConversion
from musiclora.conversion.verify import Converted
from musiclora.convert.adapters.formats import READERS, WRITERS
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.checkpoint_source import open_source
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.families import SPECS
from musiclora.progress import Reporter


def is_toy_source(path: Path) -> bool:
    return "toy.weight" in open_source(path).layout


def convert_toy(conversion: ModelConversion, reporter: Reporter) -> Converted:
    return Converted(conversion.destination, conversion.to, notes=("converted by the toy",))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "toy.safetensors", {"toy.weight": np.ones(3, np.float32)})
    return tmp_path / "toy.safetensors"


def test_a_record_is_all_that_another_architecture_needs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = replace(
        SPECS[-1],
        architecture="toy",
        convert_model=f"{__name__}:convert_toy",
        is_model_source=f"{__name__}:is_toy_source",
    )
    monkeypatch.setattr(model_conversion, "SPECS", (*SPECS, toy))
    assert convert_model(source, source.parent / "out", "hf").notes == ("converted by the toy",)


def test_tensors_of_no_architecture_are_named(source: Path) -> None:
    with pytest.raises(
        ConvertError, match=r"no model of a known architecture \(gpt2, diffrhythm, acestep\): .*toy\.weight"
    ):
        convert_model(source, source.parent / "out", "hf")


def test_the_command_line_offers_the_formats_of_the_records() -> None:
    assert set(ADAPTER_FORMATS) == {name for spec in SPECS for name in spec.adapter_formats}
    assert set(ADAPTER_FORMATS) == set(READERS) == {"peft", *WRITERS}
