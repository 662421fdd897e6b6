"""Define reconstruct: the layers of sparse_to_sparse, trained to give the outputs of the dense decoder layers."""

from dataclasses import replace

from sparseft.axes.modes.sparse_to_sparse import SPARSE_TO_SPARSE

RECONSTRUCT = replace(
    SPARSE_TO_SPARSE,
    name="reconstruct",
    words="LoRA that obeys the mask, and learns the outputs of the dense layers instead of the task",
    reconstructs=True,
    compared_with=SPARSE_TO_SPARSE.name,
)
