"""The saved state of a training on cerebras-pytorch: .mdl files of the adapters and the optimizer, without the base.

Format: HDF5, a dataset a tensor, metadata as JSON; complete once the root attribute __SUCCESS__ is set. What the
package would pickle is marked __BYTES__: such a file is not read.
"""

import sys
from pathlib import Path

import cerebras.pytorch as cstorch
import h5py
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

NAME = "state_{step}.mdl"


def write_mdl(folder: Path, step: int, content: dict) -> None:
    """Write the state after `step` and remove the older ones; `content`: tensors, numbers and text, nested."""
    path = folder / NAME.format(step=step)
    path.unlink(missing_ok=True)  # what a killed process left incomplete
    cstorch.save(content, str(path))
    for older in saved_mdl(folder):
        if older != path:
            older.unlink()


def read_last_mdl(folder: Path, identity: str) -> dict | None:
    """The newest complete state of this training, on the CPU; those left aside are said on stderr. None without one."""
    for path in saved_mdl(folder):
        fault = _fault(path)
        if fault is None:
            content = tree_map_only(torch.Tensor, _read, cstorch.load(str(path)))
            if content["identity"] == identity:
                return content
            fault = "of other code, inputs or settings"
        print(f"{path} is {fault}: it is left aside", file=sys.stderr)
    return None


def saved_mdl(folder: Path) -> list[Path]:
    """The states in a folder, newest first."""
    return sorted(folder.glob(NAME.format(step="*")), key=lambda path: -int(path.stem.removeprefix("state_")))


def _read(tensor: Tensor) -> Tensor:
    """A tensor of a file, which the package reads when it is used, in memory: the next state removes the file."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _fault(path: Path) -> str | None:
    """Why a file is no state to go on from."""
    try:
        with h5py.File(path, "r") as file:
            if not file.attrs.get("__SUCCESS__", False):
                return "incomplete"
            if any("__BYTES__" in dataset.attrs for dataset in file.values()):
                return "not plain data"
            return None if "identity.__metadata__" in file.attrs else "of other code, inputs or settings"
    except OSError:
        return "damaged"
