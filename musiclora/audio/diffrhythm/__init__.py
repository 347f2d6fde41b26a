"""DiffRhythm: its conditions and style vectors, and the check of its bases."""
