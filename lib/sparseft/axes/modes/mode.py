"""Describe what a mode is: how a run is fine-tuned, and what its merge does. M is the mask, and s is alpha / r.

LoRA    W' = (W + s B A) * M    an adapter beside the frozen weights
full    W' = W~ * M             the weights themselves, W~ after the training; "full" as in full fine-tuning
"""

from dataclasses import dataclass

# What a training hands on, and the folder of a run that holds it.
ADAPTER, WEIGHTS = "adapter", "weights"


@dataclass(frozen=True)
class Mode:
    """Describe a mode of fine-tuning."""

    name: str
    # What the results page says about it.
    words: str
    # ADAPTER or WEIGHTS; empty if nothing is trained.
    trains: str = ""
    # Whether every step of a training multiplies by W'. Then the adapter has no input of its own, so dropout is
    # impossible, and the merged model has exactly the weights of the trained model.
    masks_every_step: bool = False
    # Whether the mask ends with the start of the training. Then the merged model is dense.
    lifts_mask: bool = False
    # What PEFT computes with the adapter, because PEFT does not know the mask. It is written into the adapter.
    stock_peft: str = ""
    # Whether the adapters learn the outputs of the dense decoder layers. Otherwise a training learns the task.
    reconstructs: bool = False
    # The name of the mode whose adapter, of the same cell and seed, the training starts from. None if it starts from
    # new ones.
    starts_from: str | None = None
    # The name of the mode that the tables compare it with; None if there is none.
    compared_with: str | None = None
    # Raise it when what it trains or merges changes.
    version: int = 1

    @property
    def is_trained(self) -> bool:
        """Return whether runs of this mode are trained."""
        return bool(self.trains)

    @property
    def is_full(self) -> bool:
        """Return whether the weights themselves are trained."""
        return self.trains == WEIGHTS

    @property
    def learns_task(self) -> bool:
        """Return whether the training is one on the task."""
        return self.is_trained and not self.reconstructs

    @property
    def dense_mode(self) -> str:
        """Return the name of the mode of the dense runs that the curves of this mode start from.

        A model that did not learn the task is compared with the original one."""
        return self.dense_training if self.learns_task else "no_finetune"

    @property
    def dense_training(self) -> str:
        """Return the name of the mode in which a dense model is trained as in this mode. With a mask of ones, the modes
        that train the same are one."""
        return "full_sparse_to_sparse" if self.is_full else "sparse_to_dense"
