"""List the modes: how a run is fine-tuned, and what its merge does. M is the mask, and s is alpha / r.

no_finetune            W' = W * M                          pruned, not trained
sparse_to_dense        y = x (W * M)^T + s (x A^T) B^T     dense until the merge: W' = (W + s B A) * M
sparse_to_sparse       y = x W'^T, W' = (W + s B A) * M    what is pruned stays pruned in every step
reconstruct            the layers of sparse_to_sparse, trained to give the outputs of the dense decoder layers
reconstruct_to_sparse  sparse_to_sparse that starts from the A and B of reconstruct
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mode:
    """Describe a mode of fine-tuning."""

    name: str
    # What the results page says about it.
    words: str
    is_trained: bool
    # Whether every step of a training multiplies by W' = (W + s B A) * M. Then the adapter has no input of its own, so dropout
    # is impossible, and the merged model has exactly the weights of the trained model.
    masks_every_step: bool
    # What PEFT computes with the adapter, because PEFT does not know the mask. It is written into the adapter.
    stock_peft: str = ""
    # Whether the adapters learn the outputs of the dense decoder layers. Otherwise a training learns the task.
    reconstructs: bool = False
    # The name of the mode whose adapter, of the same cell and seed, the training starts from. None if it starts from new ones.
    starts_from: str | None = None
    # The name of the mode that the tables compare it with; None if there is none.
    compared_with: str | None = None

    @property
    def learns_task(self) -> bool:
        """Return whether a training on the task makes the adapter."""
        return self.is_trained and not self.reconstructs

    @property
    def dense_mode(self) -> str:
        """Return the name of the mode of the dense runs that the curves of this mode start from.

        A model that did not learn the task is compared with the original one, and any other with plain LoRA."""
        return SPARSE_TO_DENSE.name if self.learns_task else NO_FINETUNE.name


NO_FINETUNE = Mode("no_finetune", "pruned and not trained", is_trained=False, masks_every_step=False)
SPARSE_TO_DENSE = Mode(
    "sparse_to_dense",
    "trained with LoRA, and pruned again when LoRA is merged",
    is_trained=True,
    masks_every_step=False,
    stock_peft="over the pruned base W * M it computes the same; its merge leaves out the mask",
)
SPARSE_TO_SPARSE = Mode(
    "sparse_to_sparse",
    "trained with LoRA that obeys the mask in every step",
    is_trained=True,
    masks_every_step=True,
    stock_peft="it computes and merges W * M + s B A without the mask on B A: another model, unless the mask is"
    " structured or all ones",
    compared_with=SPARSE_TO_DENSE.name,
)
# These have the layers of sparse_to_sparse.
RECONSTRUCT = replace(
    SPARSE_TO_SPARSE,
    name="reconstruct",
    words="LoRA that obeys the mask, and learns the outputs of the dense layers instead of the task",
    reconstructs=True,
    compared_with=SPARSE_TO_SPARSE.name,
)
RECONSTRUCT_TO_SPARSE = replace(
    SPARSE_TO_SPARSE,
    name="reconstruct_to_sparse",
    words="reconstruct, and after it sparse_to_sparse",
    starts_from=RECONSTRUCT.name,
    compared_with=SPARSE_TO_SPARSE.name,
)
MODES = (NO_FINETUNE, SPARSE_TO_DENSE, SPARSE_TO_SPARSE, RECONSTRUCT, RECONSTRUCT_TO_SPARSE)


def get_mode(name: str) -> Mode:
    """Return the mode called `name`. Raises KeyError if there is none."""
    return {mode.name: mode for mode in MODES}[name]


def with_starts(names: Iterable[str]) -> list[str]:
    """Return the modes, and those that they start from, in the order of the table."""
    wanted = set(names)
    starts = {get_mode(name).starts_from for name in wanted}
    return [mode.name for mode in MODES if mode.name in wanted | starts]
