"""The audio family: recordings, latents, and flow-matching models over them."""
