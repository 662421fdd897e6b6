"""Define reconstruct_to_sparse: sparse_to_sparse that starts from the A and B of reconstruct."""

from dataclasses import replace

from sparseft.axes.modes.reconstruct import RECONSTRUCT
from sparseft.axes.modes.sparse_to_sparse import SPARSE_TO_SPARSE

RECONSTRUCT_TO_SPARSE = replace(
    SPARSE_TO_SPARSE,
    name="reconstruct_to_sparse",
    words="reconstruct, and after it sparse_to_sparse",
    starts_from=RECONSTRUCT.name,
    compared_with=SPARSE_TO_SPARSE.name,
)
