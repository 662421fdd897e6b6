"""Define layers: whole decoder layers. What a decoder layer computes from its inputs stays the same if it is left."""

from sparseft.patterns.pattern import Pattern, Units

UNITS = Units(key="num_hidden_layers", title="decoder layers", tensors=r"model\.layers\.(?P<unit>\d+)\.")
LAYERS = Pattern(
    "layers",
    words="whole decoder layers",
    scope="global",
    removes="layers",
    has_exact_counts=False,
    units=UNITS,
    is_reconstructed=False,
)
