"""Define structured: whole coupled channels and heads (LLM-Pruner, arXiv 2305.11627). architectures/ says what is coupled."""

from sparseft.patterns.pattern import Pattern

STRUCTURED = Pattern(
    "structured",
    select=lambda ranking: ranking.by_unit(ranking.coupled_parts()),
    words="whole channels and heads",
    scope="layer",
    removes="channels",
    has_exact_counts=False,
)
