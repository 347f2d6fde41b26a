"""The symbolic family: MIDI and ABC files, tokens, and token models over them."""
