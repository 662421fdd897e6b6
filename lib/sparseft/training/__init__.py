"""Train an adapter: what is trained, the loop over its steps, what it measures, and its saved state."""
