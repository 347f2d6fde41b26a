"""Jobs that convert, fuse and blend, each compared with its source before it counts."""
