"""Define obs: what the output of the last matrix loses if the unit goes and its kept columns make up for it.

It is the optimal brain surgeon's score for a group of columns. It changes with every round of removals, so
pruning/obs.py computes it, and `score` is not set here.
"""

from sparseft.axes.importances.hessian import HESSIAN
from sparseft.axes.importances.importance import Importance

OBS = Importance(
    name="obs",
    formula="tr(W_g [(X X^T)^-1_gg]^-1 W_g^T)",
    source="Kurtic et al. 2023, ZipLM, arXiv 2302.04089, section 3; Ling et al. 2024, SlimGPT, arXiv 2412.18110",
    statistic=HESSIAN,
    ranks=("channels",),
    settings=("obs_rounds", "damping"),
    update="obs",
)
