"""From a token model to a score: grammar, continuation, decoding."""
