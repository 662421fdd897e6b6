"""Describe what a mode is: how a run is fine-tuned, and what its merge does. M is the mask, and s is alpha / r."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """Describe a mode of fine-tuning."""

    name: str
    # What the results page says about it.
    words: str
    is_trained: bool
    # Whether every step of a training multiplies by W' = (W + s B A) * M. Then the adapter has no input of its own, so
    # dropout is impossible, and the merged model has exactly the weights of the trained model.
    masks_every_step: bool
    # What PEFT computes with the adapter, because PEFT does not know the mask. It is written into the adapter.
    stock_peft: str = ""
    # Whether the adapters learn the outputs of the dense decoder layers. Otherwise a training learns the task.
    reconstructs: bool = False
    # The name of the mode whose adapter, of the same cell and seed, the training starts from. None if it starts from
    # new ones.
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
        return "sparse_to_dense" if self.learns_task else "no_finetune"
