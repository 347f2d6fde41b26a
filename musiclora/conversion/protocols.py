"""Functions that an architecture brings to conversion, and the requests that they take.

A `FamilySpec` names one function of each kind; `convert model`, `fuse` and `convert adapter` call them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from musiclora.adapters import Adapter
from musiclora.conversion.compare import OutputComparison
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.verify import Converted
from musiclora.models import BaseModel
from musiclora.progress import Reporter


@dataclass(frozen=True)
class ModelConversion:
    """Request to write a model in another layout.

    Attributes:
        source: folder or file.
        destination: new folder.
        to: layout: hf, mlx or (a codec) diffusers.
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the weights are of DiffRhythm's v1.0 line, whose attention is causal; no file says so.
        vae: checkpoint of the codec that goes into the same folder.
        bits: quantise to this many bits an element.
    """

    source: Path
    destination: Path
    to: str
    dtype: str | None = None
    causal: bool = False
    vae: Path | None = None
    bits: int | None = None


@dataclass(frozen=True)
class ModelFusion:
    """Request to add adapters to their base and write one model folder.

    Attributes:
        base: model that the adapters belong to.
        adapters: adapters with their strengths.
        merged: sum of the adapters.
        destination: new folder.
        to: layout, hf or mlx.
        dtype: of all weights; None keeps the base's.
        backend: backend for the outputs before and after.
        allow_base_mismatch: go on although the adapters' bases or tokenizers differ.
    """

    base: BaseModel
    adapters: Sequence[Adapter]
    merged: MergedAdapters
    destination: Path
    to: str
    dtype: str | None
    backend: str
    allow_base_mismatch: bool


class LinearConfig(Protocol):
    """Configuration that lists the linear layers of its model."""

    def linear_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Return (out, in) of every module that can carry LoRA, by its path."""


class BaseCheckpoint(Protocol):
    """Open checkpoint of a base model."""

    @property
    def config(self) -> LinearConfig: ...


class ReadCheckpoint(Protocol):
    """Reader of a model folder."""

    def __call__(self, folder: Path, /) -> BaseCheckpoint: ...


class IsModelSource(Protocol):
    """Test whether a file or folder holds the architecture's weights."""

    def __call__(self, path: Path, /) -> bool: ...


class ConvertModel(Protocol):
    """Writer of the architecture's model in another layout, which checks the copy.

    Raises:
        ConfigError: an option that the architecture does not have.
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is written then.
    """

    def __call__(self, conversion: ModelConversion, reporter: Reporter, /) -> Converted: ...


class FuseModel(Protocol):
    """Writer of a base with its adapters fused, summed in float32 and cast once.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """

    def __call__(self, fusion: ModelFusion, reporter: Reporter, /) -> Converted: ...


class CompareAdapters(Protocol):
    """Comparison of a base's outputs with one set of adapters and with another."""

    def __call__(
        self, base: Path, before: MergedAdapters, after: MergedAdapters, backend: str, /
    ) -> OutputComparison: ...
