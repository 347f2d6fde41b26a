"""MLX backend; its import loads a fast BLAS, which has no effect once mlx.core is imported."""

from musiclora.backends.mlx import blas

blas.status()
