"""Define no_finetune: W' = W * M, pruned and not trained."""

from sparseft.axes.modes.mode import Mode

NO_FINETUNE = Mode("no_finetune", "pruned and not trained")
