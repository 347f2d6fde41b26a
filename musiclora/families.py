"""The model families, re-exported from the backend layer."""

from musiclora.backends.base import FAMILIES, Family

__all__ = ["FAMILIES", "Family"]
