"""Define sparse_to_dense: y = x (W * M)^T + s (x A^T) B^T, dense until the merge: W' = (W + s B A) * M."""

from sparseft.axes.modes.mode import ADAPTER, Mode

SPARSE_TO_DENSE = Mode(
    "sparse_to_dense",
    "trained with LoRA, and pruned again when LoRA is merged",
    trains=ADAPTER,
    stock_peft="over the pruned base W * M it computes the same; its merge leaves out the mask",
)
