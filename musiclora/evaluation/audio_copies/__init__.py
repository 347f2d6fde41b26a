"""Copy meter for recordings."""
