"""The training engine: configuration, plan, session, loop, run folder."""
