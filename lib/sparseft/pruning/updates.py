"""List the algorithms that change the kept weights, by the name that an importance or a method gives."""

from collections.abc import Callable

from sparseft.pruning.obs import prune_units
from sparseft.pruning.sparsegpt import prune_weights

# Each takes a checkpoint, a method, a sparsity in percent, the files, the settings and the calibration.
UPDATES: dict[str, Callable[..., None]] = {"sparsegpt": prune_weights, "obs": prune_units, "refit": prune_units}
