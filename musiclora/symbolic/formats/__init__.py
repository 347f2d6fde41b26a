"""File formats of the symbolic family: MIDI, ABC, and repairs."""
