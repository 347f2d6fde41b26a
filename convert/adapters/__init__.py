"""Adapter formats: PEFT (native), mlx-lm, kohya, diffusers, and the arithmetic of LoRA updates."""
