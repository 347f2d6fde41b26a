"""The MLX backend; importing it loads a fast BLAS first, because after mlx.core it is too late."""

from musiclora.backends.mlx import blas

blas.status()
