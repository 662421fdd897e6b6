"""The saved state of a training, from which a killed run goes on to the same bits; no output of any rule."""

import io
import sys
import zipfile
from pathlib import Path

import torch

from sparseft.storage.files import atomic_file, check_regular


def write_state(path: Path, identity: str, content: dict) -> None:
    """Replace the state: tensors, numbers and text alone, so that `weights_only` reads it."""
    buffer = io.BytesIO()  # torch, writing a file itself, would not say that the disk is full
    torch.save({"identity": identity, **content}, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(path: Path, identity: str) -> dict | None:
    """Return the state, on the CPU; None if there is none, or (said on stderr) if it is damaged or another training's.

    Raises OSError or InputError if there is one that cannot be read."""
    if not path.exists():
        return None
    check_regular(path)
    content = io.BytesIO(path.read_bytes())
    try:
        if zipfile.ZipFile(content).testzip() is None:  # torch itself would take a flipped bit for a weight
            content.seek(0)
            found = torch.load(content, weights_only=True, map_location="cpu")
            if found["identity"] == identity:
                return found
            reason = "of other code, inputs or settings"
        else:
            reason = "damaged"
    except Exception:  # whatever a parser makes of bytes that are no state
        reason = "damaged"
    print(f"{path} is {reason}: the training starts from its beginning", file=sys.stderr)
    return None
