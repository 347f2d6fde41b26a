"""Generation with arrival-time tokens: context, plan, drawing, and the score of what was drawn."""
