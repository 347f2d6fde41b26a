"""Offline demos of all families: data, training, reports."""
