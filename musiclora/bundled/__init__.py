"""Music and models that come with the package; only paths, so that importing this costs nothing."""

from pathlib import Path

BUNDLED = Path(__file__).parent


def bundled_tunes() -> list[Path]:
    """Paths of the bundled tunes, in order of their names; their source and terms stand in `tunes/README.md`."""
    return sorted((BUNDLED / "tunes").glob("*.abc"))
