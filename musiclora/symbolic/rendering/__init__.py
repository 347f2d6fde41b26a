"""Rendering of one song in a child process: reading, choice of parts, passes of a synthesiser."""
