"""Numerical building blocks of the models on MLX, in the form that is fast on each kind of device."""
