"""Held-out scores, audio features and distances, comparisons of folders."""
