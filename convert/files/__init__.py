"""Weight files: safe reading, atomic writing, fingerprints."""
