"""`convert model` for the audio family: DiffRhythm's transformer and its codec, streamed and checked after writing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from musiclora.conversion.verify import Converted, describe_dropped, largest_change, record_with_source
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.checkpoint_source import open_source
from musiclora.convert.files.fingerprint import RECORD, Fingerprint
from musiclora.convert.files.safetensors_file import cast_tensor, checksum, dtype_named
from musiclora.convert.models.diffrhythm import DiffRhythmCheckpoint, is_diffrhythm, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.oobleck import FORMS, is_oobleck, read_oobleck, write_oobleck
from musiclora.errors import ConfigError, ConvertError, join_problems
from musiclora.progress import Reporter, track_tensors

# Bytes from which a copy with unchanged values does not record its source's fingerprint: it is the copy's own, so every
# adapter fits all the same, and SHA-256 over a billion values takes longer than all the rest.
_LARGE = 1 << 30
_THREADS = 2  # that round tensors, which takes far longer than reading and writing them


def convert_audio(
    source: Path,
    destination: Path,
    to: str,
    dtype: str | None = None,
    causal: bool = False,
    vae: Path | None = None,
    reporter: Reporter | None = None,
) -> Converted:
    """Write DiffRhythm's transformer (with its codec in vae/), or the codec alone, in another layout.

    Args:
        source: the original's .pt, safetensors, a folder of safetensors, or a folder of ours.
        destination: new folder.
        to: hf (the original's names), mlx, or, for the codec, diffusers.
        dtype: of all weights; None keeps each one's.
        causal: whether the weights are of the v1.0 line, whose attention is causal; no file says so.
        vae: the codec's checkpoint; None takes the source folder's own vae/ if there is one.
        reporter: shows how far it is.

    Raises:
        ConvertError: neither model, tensors that do not fit, or a copy that reads back otherwise; nothing is left then.
    """
    out = reporter or Reporter()
    found = open_source(source)
    names = found.layout
    if any(".lora_" in name for name in names):
        raise ConvertError(f"{source}: an adapter; turn it into another format with `musiclora convert adapter`")
    if is_diffrhythm(names):
        result = _transformer(source, destination, to, dtype, causal or None, vae, out)
        if causal or "causal" in found.config:
            return result
        note = "taken as v1.2 weights; those of DiffRhythm-base and -full (v1.0) need --causal"
        return replace(result, notes=(*result.notes, note))
    if not is_oobleck(names):
        raise ConvertError(
            f"{source}: neither DiffRhythm nor its codec (a GPT-2 is a folder with config.json); "
            f"its tensors: {join_problems(sorted(names)[:4])}"
        )
    if vae or causal:
        raise ConfigError(f"{source}: is a codec; --vae and --causal go with the transformer")
    with atomic_folder(destination) as temporary:
        notes = _codec(source, temporary / "codec", to, dtype, out)
        _move_up(temporary / "codec")
    return Converted(destination, f"codec, {to}", notes=tuple(notes))


def _transformer(
    source: Path, destination: Path, to: str, dtype: str | None, causal: bool | None, vae: Path | None, out: Reporter
) -> Converted:
    if to == "diffusers":
        raise ConfigError("--to diffusers is for the codec; diffusers has no DiffRhythm")
    checkpoint = read_diffrhythm(source, causal=causal)
    beside = source / "vae"
    codec = vae or (beside if beside.is_dir() else None)
    rounds = dtype is not None and any(kind.name != dtype for kind in checkpoint.dtypes.values())
    small = _size(checkpoint) < _LARGE
    tap = CopyVerifier(dtype, checkpoint.checksums(), fingerprint=rounds or small, rounds=rounds, own=small)
    with atomic_folder(destination) as temporary:
        folder = temporary / "model"
        shapes = checkpoint.config.tensor_shapes()
        with track_tensors(out, "writing", shapes) as watch:
            kinds = dtype or checkpoint.dtypes
            write_diffrhythm(folder, checkpoint.config, tap(watch(checkpoint.tensors())), to, kinds)
        with track_tensors(out, "checking", shapes) as watch:
            tap.compare(watch(read_diffrhythm(folder).tensors(checked=False)), destination)
        record = record_with_source(source, tap.fingerprint()) | {"family": "audio"}
        write_json(folder / RECORD, record | ({"fingerprint": own} if (own := tap.own_fingerprint()) else {}))
        _move_up(folder)
        notes = [*checkpoint.notes, *tap.notes()]
        notes += describe_dropped(checkpoint.dropped)
        if codec:
            notes += [f"codec: {text}" for text in _codec(codec, temporary / "vae", to, dtype, out)]
        else:
            notes.append("no codec: give --vae to have it in the same folder")
    return Converted(destination, to, notes=tuple(notes))


def _codec(source: Path, destination: Path, to: str, dtype: str | None, out: Reporter) -> list[str]:
    checkpoint = read_oobleck(source)
    normed = checkpoint.weight_norm if checkpoint.weight_norm in FORMS[to] else not checkpoint.weight_norm
    tap = CopyVerifier(dtype)
    shapes = checkpoint.config.normed_shapes() if normed else checkpoint.config.tensor_shapes()
    dtypes = dtype or checkpoint.dtypes_of(weight_norm=normed)
    with track_tensors(out, "codec, writing", shapes) as watch:
        tensors = tap(watch(checkpoint.tensors(weight_norm=normed)))
        write_oobleck(destination, checkpoint.config, tensors, to, dtypes, weight_norm=normed)
    with track_tensors(out, "codec, checking", shapes) as watch:
        tap.compare(watch(read_oobleck(destination).tensors(weight_norm=normed)), destination)
    notes = tap.notes()
    if normed != checkpoint.weight_norm:
        notes.append(
            "weights split into gain and direction" if normed else "weight norm folded into the weights, in float32"
        )
    return [*notes, *describe_dropped(checkpoint.dropped)]


def _size(checkpoint: DiffRhythmCheckpoint) -> int:
    """Bytes of its tensors."""
    shapes = checkpoint.config.tensor_shapes()
    return sum(math.prod(shape) * checkpoint.dtypes[name].itemsize for name, shape in shapes.items())


class CopyVerifier:
    """Watches tensors stream by: the source's fingerprint, and a checksum of each as it is to be written.

    A checksum that the source's file states (stated: by name) is not computed again where the values stay as they are.
    """

    def __init__(
        self,
        dtype: str | None,
        stated: Mapping[str, int] | None = None,
        *,
        fingerprint: bool = True,
        rounds: bool = False,
        own: bool = True,
    ) -> None:
        self._source = Fingerprint() if fingerprint else None
        self._copy = self._source if not rounds else Fingerprint() if own else None
        self._dtype = dtype_named(dtype) if dtype else None
        self._stated = stated or {}
        self._sums: dict[str, int] = {}
        self._changes: list[float] = []

    def __call__(self, tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        kept = self._kept(self._source.tap(tensors) if self._source else tensors)
        return self._copy.tap(kept) if self._copy and self._copy is not self._source else kept

    def _kept(self, tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        if self._dtype is None:
            for name, array in tensors:
                self._sums[name] = self._stated[name] if name in self._stated else checksum(array)
                yield name, array
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[tuple[str, np.ndarray]]] = deque()
            for item in tensors:
                waiting.append(pool.submit(self._rounded, *item))
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _rounded(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """A tensor in the copy's dtype; numpy lets other threads work meanwhile."""
        rounded = cast_tensor(name, array, self._dtype or array.dtype)
        self._sums[name] = checksum(rounded)
        if rounded is not array:
            self._changes.append(largest_change(array, rounded))
        return name, rounded

    def compare(self, tensors: Iterable[tuple[str, np.ndarray]], destination: Path) -> None:
        """Raise ConvertError where what was written reads back otherwise."""
        found = {name: checksum(array) for name, array in tensors}
        if differing := sorted(name for name in {**found, **self._sums} if found.get(name) != self._sums.get(name)):
            raise ConvertError(
                f"{destination}: reads back with other values ({join_problems(differing)}); it was withdrawn"
            )

    def notes(self) -> list[str]:
        """What became of the values."""
        if change := max(self._changes, default=0.0):
            return [f"rounded to {self._dtype}: the largest change of a weight is {change:.3g}"]
        known = f" (fingerprint {self._source.value()[:8]})" if self._source else ""
        return [f"every weight has the same value{known}"]

    def fingerprint(self) -> dict[str, str] | None:
        """The source's, to be recorded; None where it was left out."""
        return {"weights": self._source.value()} if self._source else None

    def own_fingerprint(self) -> dict[str, str] | None:
        """The copy's, which its record holds for; None where it was left out."""
        return {"weights": self._copy.value()} if self._copy else None


def _move_up(folder: Path) -> None:
    """Move a folder's content into its parent."""
    for path in list(folder.iterdir()):
        path.rename(folder.parent / path.name)
    folder.rmdir()
