"""Recordings: reading, measuring, cutting and writing sound files."""
