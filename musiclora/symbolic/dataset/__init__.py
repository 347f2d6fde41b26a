"""Training data of the symbolic family: pieces, splits, packed batches, transpositions."""
