"""Child processes that parse unknown files, so that a crash, a hang or a hostile file costs one process only."""
