"""Masked LoRA: layers, PEFT adapter files, and the sparse merge."""
