"""The saved state of a training on cerebras-pytorch: a .mdl file with the adapters and the optimizer, without the base.

The package writes it. Our own reader (checkpoints/mdl.py) reads it, because the package would unpickle objects.
"""

import sys
from contextlib import closing
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from sparseft.backends.cerebras.package import cstorch
from sparseft.checkpoints.checkpoint import DTYPES
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
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
            return _read(path, identity)
        except InputError as error:
            print(f"{error.args[0]}: it is not used", file=sys.stderr)
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


def _read(path: Path, identity: str) -> dict:
    """Return the state in a file. Raises InputError if it is not of the training with this identity."""
    file = MdlFile(path)
    dtypes = {code: getattr(torch, name) for name, code in DTYPES.items()}

    def in_memory(tensor: MdlTensor) -> torch.Tensor:
        values = torch.from_numpy(file.read(tensor))
        return values.view(dtypes[tensor.dtype]) if tensor.dtype in dtypes else values

    with closing(file.file):
        content = file.content()
        if content.get("identity") != identity:
            raise InputError(f"{path}: of other code, inputs or settings", "train without it")
        return tree_map_only(MdlTensor, in_memory, content)
