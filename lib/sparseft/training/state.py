"""The saved state of a training, from which a killed run goes on to the same bits; no output of any rule."""

import pickle
import sys
from pathlib import Path

import torch

from sparseft.files import atomic_file


def write_state(path: Path, identity: str, content: dict) -> None:
    """Replace the state: tensors, numbers and text alone, so that `weights_only` reads it."""
    with atomic_file(path) as temporary:
        torch.save({"identity": identity, **content}, temporary)


def read_state(path: Path, identity: str) -> dict | None:
    """The state, on the CPU; None where there is none, or (said on stderr) where it is damaged or another training's."""
    if not path.exists():
        return None
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        if found["identity"] == identity:
            return found
        reason = "of other inputs or settings"
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        reason = "damaged"
    print(f"{path} is {reason}: the training starts from its beginning", file=sys.stderr)
    return None
