"""Style card: how near the distributions of generated songs are to those of an artist."""
