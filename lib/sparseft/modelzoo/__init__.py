"""Cerebras ModelZoo: its checkpoints, names and coordinates, beside the Hugging Face ones that everything else uses."""
