"""Bytes of MIDI tracks."""

from __future__ import annotations


def track_of(*messages: bytes) -> bytes:
    return b"".join(messages) + b"\x00\xff\x2f\x00"


NOTE = b"\x00\x90\x3c\x64\x83\x60\x80\x3c\x00"
