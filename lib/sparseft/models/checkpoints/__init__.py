"""Hugging Face checkpoints: prepared once, then read one tensor at a time, without torch."""
