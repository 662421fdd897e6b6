"""Define full_sparse_to_sparse: all kept weights are trained, and W * M holds after every step.

Source: sparse fine-tuning as in Kurtic et al. 2023, arXiv 2310.06927, and Agarwalla et al. 2024, arXiv 2405.03594.
"""

from sparseft.axes.modes.mode import WEIGHTS, Mode

FULL_SPARSE_TO_SPARSE = Mode(
    "full_sparse_to_sparse",
    "all kept weights trained, under the mask in every step",
    trains=WEIGHTS,
    masks_every_step=True,
    compared_with="sparse_to_sparse",
)
