"""Figures and HTML parts of reports: piano roll, loss plot, inline audio."""
