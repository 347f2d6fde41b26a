"""Readers and writers of music, tokens and training batches."""
