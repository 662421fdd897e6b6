"""Define layers: whole decoder layers. What a decoder layer computes from its inputs stays the same if it is left."""

from sparseft.axes.patterns.pattern import Pattern, Units

LAYERS = Pattern(
    "layers",
    words="whole decoder layers",
    scope="global",
    removes="layers",
    has_exact_counts=False,
    units=Units(key="num_hidden_layers", title="decoder layers", tensors=r"model\.layers\.(?P<unit>\d+)\."),
    is_reconstructed=False,
)
