"""ACE-Step 1.5: captions, lyrics and conditions, training batches, and generation."""
