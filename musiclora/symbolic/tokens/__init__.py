"""Tokenizers of the symbolic family."""
