"""Latents folders: encoding recordings with the codec, and the files it writes."""
