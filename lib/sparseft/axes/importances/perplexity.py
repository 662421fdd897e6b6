"""Define perplexity: the perplexity of the examples in the model without the decoder layer.

Every decoder layer is left out once, so a model of L decoder layers computes about L^2 / 2 of them on all examples.
"""

import numpy as np

from sparseft.axes.importances.importance import Importance

PERPLEXITY = Importance(
    name="perplexity",
    formula="exp(loss without it)",
    source="Kim et al. 2024, Shortened LLaMA, arXiv 2402.02834",
    ranks=("layers",),
    score_units=lambda observation: np.exp(observation.losses_without_layers())[None],
    passes=lambda layers: (layers + 1) / 2,
    accumulated="perplexity of the answers without each decoder layer",
)
