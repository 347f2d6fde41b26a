"""ACE-Step's part of `convert model`: weights streamed and checked after writing, other parts copied along."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.conversion.acestep_parts import copy_parts
from musiclora.conversion.copy_verifier import CopyVerifier
from musiclora.conversion.protocols import ConvertModel, IsModelSource, ModelConversion
from musiclora.conversion.quantised_copy import QuantisedVerifier
from musiclora.conversion.verify import Converted, describe_dropped, record_with_source, stored_dtype
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.fingerprint import RECORD, Watch
from musiclora.convert.files.safetensors_file import Layout, Tensors, dtype_named, dtypes_for
from musiclora.convert.models.acestep import AceStepCheckpoint, read_acestep, tensor_shapes
from musiclora.convert.models.acestep_folders import is_acestep_folder
from musiclora.convert.models.acestep_write import is_packed, write_acestep, write_pipeline_index
from musiclora.errors import ConfigError
from musiclora.models import kept_settings
from musiclora.progress import Reporter, track_tensors

# A larger copy with unchanged values does not record its source's fingerprint, which is the copy's own: SHA-256 over
# billions of values takes longer than all the rest.
_LARGE_BYTES = 1 << 30
_CODES_REASON = "the 5 Hz tokenizer of upstream's covers, which only a copy with --to hf keeps"


def is_acestep_source(path: Path) -> bool:
    """Tell whether a folder holds ACE-Step: the original's, a diffusers pipeline or a model folder."""
    return is_acestep_folder(path)


def convert_acestep(conversion: ModelConversion, reporter: Reporter) -> Converted:
    """Write ACE-Step in another layout, with codec, text encoder and tokenizer where they are beside it.

    Raises:
        ConfigError: options of another architecture, or a quantised source or layout that cannot be quantised.
        ConvertError: tensors that do not fit, or a copy that reads back with other values; nothing is written then.
    """
    if conversion.causal:
        raise ConfigError("--causal is for DiffRhythm's weights of the v1.0 line")
    if conversion.bits and conversion.to != "mlx":
        raise ConfigError(f"--quantize goes with --to mlx; the layout {conversion.to} holds no quantised weights")
    checkpoint = read_acestep(conversion.source)
    if conversion.bits and checkpoint.bits:
        raise ConfigError(f"{conversion.source}: is quantised already; give the float model that it was made from")
    return _AceStepCopy(conversion, checkpoint, reporter).run()


class _AceStepCopy:
    """One conversion of ACE-Step."""

    def __init__(self, conversion: ModelConversion, checkpoint: AceStepCheckpoint, reporter: Reporter) -> None:
        self._wanted, self._checkpoint, self._reporter = conversion, checkpoint, reporter
        self._dtype = stored_dtype(conversion.dtype, checkpoint.dtypes.values(), conversion.to)
        self._dtypes = dtypes_for(checkpoint.dtypes, self._dtype or checkpoint.dtypes)
        self._verifier = self._choose_verifier()
        self._codes = CopyVerifier(self._dtype, fingerprint=False)

    def run(self) -> Converted:
        """Write, read back, compare, and copy the other parts."""
        wanted, checkpoint = self._wanted, self._checkpoint
        with atomic_folder(wanted.destination) as folder:
            self._write(folder)
            self._check(folder)
            notes = [*self._verifier.notes(), *describe_dropped(checkpoint.dropped), *self._describe_rest()]
            notes += copy_parts(
                wanted, checkpoint.folder, checkpoint.config.latent_dim, folder, self._dtype, self._reporter
            )
            if wanted.to == "diffusers":
                write_pipeline_index(folder)
            home = checkpoint.folder.path
            record = record_with_source(home, self._verifier.source_fingerprint()) | {"family": "audio"}
            own = self._verifier.own_fingerprint()
            write_json(folder / RECORD, record | kept_settings(home) | ({"fingerprint": own} if own else {}))
        kind = f"{wanted.to}, {wanted.bits} bits" if wanted.bits else wanted.to
        return Converted(wanted.destination, kind, notes=tuple(notes))

    def _choose_verifier(self) -> CopyVerifier | QuantisedVerifier:
        checkpoint, dtype = self._checkpoint, self._dtype
        if self._wanted.bits:
            return QuantisedVerifier(self._wanted.bits, self._dtypes, is_packed)
        rounds = any(kind != self._dtypes[name] for name, kind in checkpoint.dtypes.items())
        small = _count_bytes(checkpoint) < _LARGE_BYTES
        return CopyVerifier(dtype, fingerprint=rounds or small, rounds=rounds, own=small)

    def _carried(self) -> Layout:
        """Lay out the 5 Hz tokenizer in the copy; empty where the copy does not keep it."""
        if self._wanted.to != "hf":
            return {}
        carried, dtype = self._checkpoint.carried, self._dtype
        return {name: (dtype_named(dtype) if dtype else kind, shape) for name, (kind, shape) in carried.items()}

    def _write(self, folder: Path) -> None:
        checkpoint, carried = self._checkpoint, self._carried()

        def read_watched(watch: Watch) -> Callable[[Collection[str]], Tensors]:
            def read(names: Collection[str]) -> Tensors:
                weights = [name for name in names if name not in carried]
                yield from self._verifier(watch(checkpoint.tensors(weights)))
                codes = [name for name in names if name in carried]
                yield from self._codes(checkpoint.tensors(codes) if codes else ())

            return read

        with track_tensors(self._reporter, "writing", tensor_shapes(checkpoint.config)) as watch:
            write_acestep(
                folder,
                checkpoint.config,
                read_watched(watch),
                self._wanted.to,
                self._dtypes,
                other_settings=checkpoint.other_settings,
                carried=carried,
                bits=self._wanted.bits,
            )

    def _check(self, folder: Path) -> None:
        copy = read_acestep(folder)
        with track_tensors(self._reporter, "checking", tensor_shapes(copy.config)) as watch:
            self._verifier.compare(watch(copy.tensors()), self._wanted.destination)
        self._codes.compare(copy.tensors(copy.carried), self._wanted.destination)

    def _describe_rest(self) -> list[str]:
        """Describe what the copy lacks, and what a quantised source was read as."""
        checkpoint, to = self._checkpoint, self._wanted.to
        notes = [] if to == "hf" else describe_dropped(dict.fromkeys(checkpoint.carried, _CODES_REASON))
        if to == "hf" and checkpoint.layout != "hf":
            notes.append("without the 5 Hz tokenizer of upstream's covers, which only the original's layout holds")
        if checkpoint.bits:
            notes.append(f"de-quantised: the {checkpoint.bits}-bit values of the source are written as floats")
        return notes


def _count_bytes(checkpoint: AceStepCheckpoint) -> int:
    """Count the bytes of a checkpoint's tensors."""
    shapes = tensor_shapes(checkpoint.config)
    return sum(math.prod(shape) * checkpoint.dtypes[name].itemsize for name, shape in shapes.items())


if TYPE_CHECKING:
    _convert: ConvertModel = convert_acestep
    _is_source: IsModelSource = is_acestep_source
