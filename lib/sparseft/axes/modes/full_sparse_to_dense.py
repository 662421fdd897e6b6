"""Define full_sparse_to_dense: the training starts from W * M and lifts the mask, so the result is dense.

Source: SPDF, sparse pre-training and dense fine-tuning, Thangarasa et al. 2023, arXiv 2303.10464.
"""

from sparseft.axes.modes.mode import WEIGHTS, Mode

FULL_SPARSE_TO_DENSE = Mode(
    "full_sparse_to_dense",
    "all weights trained from the pruned model without its mask: the result is dense",
    trains=WEIGHTS,
    lifts_mask=True,
    compared_with="full_sparse_to_sparse",
)
