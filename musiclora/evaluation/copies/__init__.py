"""Copy meter for notes: runs of a piece that agree with a training song."""
