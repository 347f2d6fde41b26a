"""Paths of the bundled music and models; importing this reads no file."""

from pathlib import Path

BUNDLED = Path(__file__).parent
# Folders of the bundled bases, by the value of --model.
BUNDLED_MODELS = {
    "bundled": BUNDLED / "symbolic",
    "bundled-band": BUNDLED / "band",
    "bundled-audio": BUNDLED / "audio",
}


def bundled_tunes() -> list[Path]:
    """List the bundled tunes by name; their source and terms stand in `tunes/README.md`."""
    return sorted((BUNDLED / "tunes").glob("*.abc"))


def bundled_songs() -> list[Path]:
    """List the bundled tunes arranged for a band, as MIDI, by name; see `songs/README.md`."""
    return sorted((BUNDLED / "songs").glob("*.mid"))
