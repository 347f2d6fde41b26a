"""LoRA fine-tuning of music models on MLX and PyTorch."""

__version__ = "0.1.0"
