"""List the modes. To add one, write its file and put it into the table."""

from collections.abc import Iterable

from sparseft.axes.modes.full_sparse_to_dense import FULL_SPARSE_TO_DENSE
from sparseft.axes.modes.full_sparse_to_sparse import FULL_SPARSE_TO_SPARSE
from sparseft.axes.modes.mode import Mode
from sparseft.axes.modes.no_finetune import NO_FINETUNE
from sparseft.axes.modes.reconstruct import RECONSTRUCT
from sparseft.axes.modes.reconstruct_to_sparse import RECONSTRUCT_TO_SPARSE
from sparseft.axes.modes.sparse_to_dense import SPARSE_TO_DENSE
from sparseft.axes.modes.sparse_to_sparse import SPARSE_TO_SPARSE

MODES = (
    NO_FINETUNE,
    SPARSE_TO_DENSE,
    SPARSE_TO_SPARSE,
    FULL_SPARSE_TO_SPARSE,
    FULL_SPARSE_TO_DENSE,
    RECONSTRUCT,
    RECONSTRUCT_TO_SPARSE,
)


def get_mode(name: str) -> Mode:
    """Return the mode called `name`. Raises KeyError if there is none."""
    return {mode.name: mode for mode in MODES}[name]


def with_starts(names: Iterable[str]) -> list[str]:
    """Return the modes, and those that they start from, in the order of the table."""
    wanted = set(names)
    starts = {get_mode(name).starts_from for name in wanted}
    return [mode.name for mode in MODES if mode.name in wanted | starts]
