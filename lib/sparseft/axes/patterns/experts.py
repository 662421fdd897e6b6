"""Define experts: whole experts of a mixture, with their rows of the router. Every decoder layer loses equally many.

A token still has `num_experts_per_tok` experts, or all that are left if these are fewer.
"""

from sparseft.axes.patterns.pattern import Pattern, Units

EXPERTS = Pattern(
    "experts",
    words="whole experts",
    scope="decoder layer",
    removes="experts",
    has_exact_counts=False,
    units=Units(
        key="num_local_experts",
        title="experts",
        tensors=r"model\.layers\.(?P<group>\d+)\..*\bexperts\.(?P<unit>\d+)\.",
    ),
)
