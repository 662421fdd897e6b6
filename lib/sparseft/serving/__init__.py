"""Give a run away: a stock folder with a model card, and the check that other engines compute the same with it."""
