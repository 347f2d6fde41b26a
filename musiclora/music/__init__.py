"""Basics of music that every layer may use: bar lines and instruments."""
