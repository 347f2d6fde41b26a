"""The audio job behind `musiclora preprocess`: a folder of recordings becomes a folder of latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.audio_loading import codec_fingerprint, codec_folder, given_style
from musiclora.backends.registry import choose, get_backend
from musiclora.data.latents import Encoded, Encoding, encode_recordings, is_latents
from musiclora.data.styles import need_muq, style_of_recording
from musiclora.errors import ConfigError
from musiclora.models import find_model
from musiclora.results import Reporter

ADAPTER, MUQ = "adapter", "muq"


@dataclass(frozen=True)
class LatentsResult:
    """What `preprocess` made of recordings."""

    folder: Path
    backend: str
    encoded: Encoded

    def record(self) -> dict[str, Any]:
        """For --json."""
        e = self.encoded
        return {
            "output_dir": self.folder, "backend": self.backend, "recordings": e.recordings, "seconds": e.seconds,
            "left_out": e.left_out, "clipped": e.clipped,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        e = self.encoded
        return [f"{e.recordings} recordings, {e.seconds / 60:.1f} minutes, as latents in {self.folder}"]

    def notes(self) -> list[str]:
        """What the user should know."""
        return self.encoded.notes()


def preprocess(
    data_dir: Path, output_dir: Path, model: str, reporter: Reporter, *, backend: str = "auto",
    vae: Path | None = None, style: str | None = None, posterior: str | None = None, seed: int = 42,
    num_workers: int | None = None,
) -> LatentsResult:  # fmt: skip
    """Encode a folder of recordings; an interrupted start is taken up where it stopped.

    Args:
        data_dir: recordings, or what `cut` wrote.
        output_dir: the latents folder.
        model: whose codec is taken where `vae` names none.
        reporter: told what happens.
        backend: `auto`, `mlx` or `torch`.
        vae: a codec.
        style: a file or words for all recordings, `muq` for each recording's own, `adapter` or None for none: then one
            vector is trained with the adapter.
        posterior: `mean` (default) or `sample`.
        seed: of the samples.
        num_workers: accepted; a codec uses all cores by itself.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
        OSError: too little disk; what was encoded is kept.
    """
    base, name = find_model(model), choose(backend)
    where = codec_folder(base, vae)
    if output_dir.exists() and not is_latents(output_dir) and (output_dir.is_file() or any(output_dir.iterdir())):
        raise ConfigError(f"--output-dir {output_dir}: holds something else than latents; choose another")
    vector = None if style in (None, ADAPTER, MUQ) else given_style(str(style), name)
    if style == MUQ:
        need_muq("--style muq")
    encoding = Encoding(posterior or "mean", seed, vector, style_of_recording if style == MUQ else None)
    with reporter.task("encoding recordings") as update:
        codec = get_backend(name).load_codec(where)
        encoded = encode_recordings(data_dir, output_dir, codec, codec_fingerprint(where), update, encoding)
    return LatentsResult(output_dir, name, encoded)
