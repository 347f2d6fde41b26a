"""Processes: children that parse unknown files, and the signals that end this one."""
