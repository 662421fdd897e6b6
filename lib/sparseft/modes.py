"""List the modes: how a run is fine-tuned, and what its merge does. M is the mask, and s is alpha / r.

no_finetune        W' = W * M                          pruned, not trained
sparse_to_dense    y = x (W * M)^T + s (x A^T) B^T     dense until the merge: W' = (W + s B A) * M
sparse_to_sparse   y = x W'^T, W' = (W + s B A) * M    what is pruned stays pruned in every step
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """Describe a mode of fine-tuning."""

    name: str
    is_trained: bool
    # Whether every step of a training multiplies by W' = (W + s B A) * M. Then the adapter has no input of its own, so dropout
    # is impossible, and the merged model has exactly the weights of the trained model.
    masks_every_step: bool
    # What PEFT computes with the adapter, because PEFT does not know the mask. It is written into adapter_config.json.
    stock_peft: str = ""


NO_FINETUNE = Mode("no_finetune", is_trained=False, masks_every_step=False)
SPARSE_TO_DENSE = Mode(
    "sparse_to_dense",
    is_trained=True,
    masks_every_step=False,
    stock_peft="over the pruned base W * M it computes the same; its merge leaves out the mask",
)
SPARSE_TO_SPARSE = Mode(
    "sparse_to_sparse",
    is_trained=True,
    masks_every_step=True,
    stock_peft="it computes and merges W * M + s B A without the mask on B A: another model, unless the mask is"
    " structured or all ones",
)
MODES = (NO_FINETUNE, SPARSE_TO_DENSE, SPARSE_TO_SPARSE)


def get_mode(name: str) -> Mode:
    """Return the mode called `name`. Raises KeyError if there is none."""
    return {mode.name: mode for mode in MODES}[name]
