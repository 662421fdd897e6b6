"""Define sparsegpt: what the layer's output loses if the weight becomes zero and the later columns make up for it.

The score depends on the columns that are already pruned, and the kept weights change with every column. So
pruning/sparsegpt.py computes both, and there is no `score` here.
"""

from typing import Any

from sparseft.importances.importance import Importance, Statistic


def add(total: Any, inputs: Any) -> None:
    """Add x x^T of each token's inputs x, in fp32."""
    inputs = inputs.float()
    total.addmm_(inputs.T, inputs)


# The sum of x x^T over all tokens of the examples, (cols, cols).
HESSIAN = Statistic(
    of_gradients=False,
    shape=lambda rows, cols: (cols, cols),
    add=add,
    finish=lambda total, count: total,
)

SPARSEGPT = Importance(
    name="sparsegpt",
    formula="w^2 / [(X X^T)^-1]_jj",
    source="Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1; sparsegpt.py of its code, commit 147d215",
    statistic=HESSIAN,
    ranks=frozenset({"weights"}),
    scope="block",
    has_fixed_scope=True,
    accumulated="sum of x x^T over all tokens of all examples",
    settings=("sparsegpt_block", "sparsegpt_damping"),
    updates_weights=True,
)
