"""Paths of the bundled music and models; importing this reads no file."""

from pathlib import Path

BUNDLED = Path(__file__).parent
# Folders of the bundled bases, by the value of --model.
BUNDLED_MODELS = {"bundled": BUNDLED / "symbolic", "bundled-audio": BUNDLED / "audio"}


def bundled_tunes() -> list[Path]:
    """List the bundled tunes by name; their source and terms stand in `tunes/README.md`."""
    return sorted((BUNDLED / "tunes").glob("*.abc"))
