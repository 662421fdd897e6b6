"""Define sparsegpt: what the layer's output loses if the weight becomes zero and the later columns make up for it.

The score depends on the columns that are already pruned, and the kept weights change with every column. So
pruning/sparsegpt.py computes both, and `score` is not set here.
"""

from sparseft.axes.importances.hessian import HESSIAN
from sparseft.axes.importances.importance import Importance

SPARSEGPT = Importance(
    name="sparsegpt",
    formula="w^2 / [(X X^T)^-1]_jj",
    source="Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1; sparsegpt.py of its code, commit 147d215",
    statistic=HESSIAN,
    ranks=("weights",),
    scope="block",
    has_fixed_scope=True,
    settings=("sparsegpt_block", "damping"),
    update="sparsegpt",
)
