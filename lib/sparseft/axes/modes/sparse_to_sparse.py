"""Define sparse_to_sparse: y = x W'^T, W' = (W + s B A) * M. What is pruned stays pruned in every step."""

from sparseft.axes.modes.mode import ADAPTER, Mode

SPARSE_TO_SPARSE = Mode(
    "sparse_to_sparse",
    "trained with LoRA that obeys the mask in every step",
    trains=ADAPTER,
    masks_every_step=True,
    stock_peft="it computes and merges W * M + s B A without the mask on B A: another model, unless the mask is"
    " structured or all ones",
    compared_with="sparse_to_dense",
)
