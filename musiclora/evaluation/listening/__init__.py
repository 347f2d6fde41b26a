"""Blind listening tests: excerpts, the page that plays them, and the statistics of the ratings."""
