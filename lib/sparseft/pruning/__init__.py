"""Pruning masks: scored and selected offline, one file a sparsity, never inferred from W != 0."""
