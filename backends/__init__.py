"""Backend interface and its implementations on MLX and PyTorch; only numpy arrays cross it."""

if __name__ != "musiclora.backends":
    raise ImportError(f"import this package as musiclora.backends, not {__name__!r}; install with: pip install -e .")
