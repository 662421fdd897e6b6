"""The saved state of a training on cerebras-pytorch: .mdl files of the adapters and the optimizer, without the base.

The format is that of checkpoints/mdl.py, whose reader looks at a file before the package does: an older format, and
what the package would unpickle, is not read.
"""

import sys
from contextlib import closing
from pathlib import Path

import cerebras.pytorch as cstorch
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError

NAME = "state_{step}.mdl"


def write_mdl(folder: Path, step: int, content: dict) -> None:
    """Write the state after `step` and remove the older ones; `content`: tensors, numbers and text, nested."""
    path = folder / NAME.format(step=step)
    path.unlink(missing_ok=True)  # of a training with other settings
    try:
        cstorch.save(content, str(path))
    finally:
        remove_unfinished(folder)
    for older in saved_mdl(folder):
        if older != path:
            older.unlink()


def read_last_mdl(folder: Path, identity: str) -> dict | None:
    """The newest complete state of this training, on the CPU; those left aside are said on stderr. None without one.

    What a killed process left half-written is removed."""
    remove_unfinished(folder)
    for path in saved_mdl(folder):
        try:
            _check(path, identity)
        except InputError as error:
            print(f"{error.args[0]}: it is left aside", file=sys.stderr)
        else:
            return tree_map_only(torch.Tensor, _read, cstorch.load(str(path)))
    return None


def saved_mdl(folder: Path) -> list[Path]:
    """The states in a folder, newest first."""
    return sorted(folder.glob(NAME.format(step="*")), key=lambda path: -int(path.stem.removeprefix("state_")))


def remove_unfinished(folder: Path) -> None:
    """Remove what a save that was cut off left: the package writes beside the place, and renames."""
    for path in folder.glob(f"{NAME.format(step='*')}.*.tmp"):
        path.unlink()


def _read(tensor: Tensor) -> Tensor:
    """A tensor of a file, which the package reads when it is used, in memory: the next state removes the file."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _check(path: Path, identity: str) -> None:
    """Raises InputError where a file is no state of this training to go on from; the package opens it only after."""
    state = MdlFile(path)
    with closing(state.file):
        state.check_loadable()
        if not state.tensors or state.leaves.get("identity", {}).get("string_value") != identity:
            raise InputError(f"{path}: of other code, inputs or settings", "train without it")
