"""The job behind `musiclora convert model`: weights in another layout, checked after writing."""

from __future__ import annotations

from pathlib import Path

from musiclora.conversion.gpt2 import _Gpt2Copy
from musiclora.conversion.verify import Converted
from musiclora.convert.files.weight_files import read_json
from musiclora.errors import ConfigError
from musiclora.models import find_model
from musiclora.progress import Reporter


def convert_model(
    source: str,
    destination: Path,
    to: str,
    dtype: str | None = None,
    *,
    causal: bool = False,
    vae: Path | None = None,
    bits: int | None = None,
    reporter: Reporter | None = None,
) -> Converted:
    """Write a model of either family in another layout.

    Args:
        source: bundled, a Hub id, a folder, or a file of the audio family.
        destination: new folder.
        to: hf, mlx or (the audio codec) diffusers.
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the audio weights are of the v1.0 line.
        vae: the audio family's codec, to go into the same folder.
        bits: quantise to 4 or 8 bits an element (symbolic, to mlx).
        reporter: shows how far it is.

    Raises:
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is left then.
    """
    out = reporter or Reporter()
    path = Path(source).expanduser()
    path = path if path.exists() else find_model(source, "").path
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_file() or config.get("model_type", "oobleck") in ("diffrhythm", "oobleck"):
        from musiclora.conversion.diffrhythm import convert_audio

        if bits:
            raise ConfigError("--quantize is for the symbolic family; the audio family's weights stay float")
        return convert_audio(path, destination, to, dtype, causal, vae, out)
    if causal or vae or to == "diffusers":
        raise ConfigError("--causal, --vae and --to diffusers are for the audio family")
    if bits and to != "mlx":
        raise ConfigError(f"--quantize goes with --to mlx; the layout {to} holds no quantised weights")
    return _Gpt2Copy(path, destination, to, dtype, bits, out).convert()
