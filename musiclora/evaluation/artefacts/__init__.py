"""Artefacts of recordings: clicks, noise floor, energy above 10 kHz, clipping and silence."""
