"""The saved state of a training on cerebras-pytorch: a .mdl file with the adapters and the optimizer, without the base.

Our own reader (checkpoints/mdl.py) checks a file before the package opens it. It refuses an older format, and everything
that the package would unpickle.
"""

import sys
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparseft.backends.cerebras.package import cstorch
from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError

NAME = "state_{step}.mdl"


def write_mdl(folder: Path, step: int, content: dict) -> None:
    """Write the state after `step`, and remove the older ones. `content` has nested tensors, numbers and texts."""
    path = folder / NAME.format(step=step)
    # A training with other settings may have left it.
    path.unlink(missing_ok=True)
    try:
        cstorch.save(content, str(path))
    finally:
        remove_unfinished(folder)
    for older in saved_mdl(folder):
        if older != path:
            older.unlink()


def read_last_mdl(folder: Path, identity: str) -> dict | None:
    """Return the newest complete state of the training with this identity, on the CPU; None if there is none.

    A state that cannot be used is named on stderr. A file that a killed process left half-written is removed."""
    remove_unfinished(folder)
    for path in saved_mdl(folder):
        try:
            _check(path, identity)
        except InputError as error:
            print(f"{error.args[0]}: it is not used", file=sys.stderr)
        else:
            return tree_map_only(torch.Tensor, _read, cstorch.load(str(path)))
    return None


def saved_mdl(folder: Path) -> list[Path]:
    """Return the states in a folder, newest first."""
    return sorted(folder.glob(NAME.format(step="*")), key=lambda path: -int(path.stem.removeprefix("state_")))


def remove_states(folder: Path) -> None:
    """Remove the saved states of a training whose adapter is written."""
    for path in saved_mdl(folder):
        path.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the files of interrupted saves. The package writes beside the final place, and then renames."""
    for path in folder.glob(f"{NAME.format(step='*')}.*.tmp"):
        path.unlink()


def _read(tensor: Tensor) -> Tensor:
    """Return a tensor in memory. The package reads it only when it is used, and the next state removes the file."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _check(path: Path, identity: str) -> None:
    """Raise InputError if a file is not a state of the training with this identity. The package has not opened it yet."""
    state = MdlFile(path)
    with closing(state.file):
        state.check_loadable()
        if not state.tensors or state.leaves.get("identity", {}).get("string_value") != identity:
            raise InputError(f"{path}: of other code, inputs or settings", "train without it")
