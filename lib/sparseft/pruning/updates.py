"""List the algorithms that change the kept weights, by the name that an importance or a method gives."""

from collections.abc import Callable

from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.obs import prune_units
from sparseft.pruning.sparsegpt import prune_weights

UPDATES: dict[str, Callable[[MaskPass], None]] = {"sparsegpt": prune_weights, "obs": prune_units, "refit": prune_units}
