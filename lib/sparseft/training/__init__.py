"""Training of adapters: batches, the loop, and one file a backend."""
