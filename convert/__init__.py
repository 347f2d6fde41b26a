"""Checkpoint and adapter files: names, shapes, formats. Needs numpy and ml_dtypes only."""

if __name__ != "musiclora.convert":
    raise ImportError(f"import this package as musiclora.convert, not {__name__!r}; install with: pip install -e .")
