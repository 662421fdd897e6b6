"""Save the state of a training, so that a killed run continues to the same bits. The state is no output of any rule."""

import io
import sys
import zipfile
from pathlib import Path

import torch

from sparseft.storage.atomic import atomic_file


def write_state(path: Path, identity: str, content: dict) -> None:
    """Replace the saved state. `content` holds only tensors, numbers and text, so that `weights_only` reads it."""
    buffer = io.BytesIO()
    # torch would not report a full disk if it wrote the file itself.
    torch.save({"identity": identity, **content}, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(path: Path, identity: str) -> dict | None:
    """Return the saved state, on the CPU. Return None if there is none that this training can continue.

    A state that is damaged or of another training is reported on stderr. Raises OSError or InputError if the file cannot
    be read."""
    if not path.exists():
        return None
    state = _parse(path.read_bytes())
    if state is not None and state["identity"] == identity:
        return state
    reason = "damaged" if state is None else "of other code, inputs or settings"
    print(f"{path} is {reason}: the training starts from its beginning", file=sys.stderr)
    return None


def _parse(content: bytes) -> dict | None:
    """Return the state in a file's content, or None if it is damaged."""
    file = io.BytesIO(content)
    # A parser may raise anything for bytes that are no state.
    try:
        # torch checks no checksums, and would take a flipped bit for a weight.
        if zipfile.ZipFile(file).testzip() is not None:
            return None
        file.seek(0)
        state = torch.load(file, weights_only=True, map_location="cpu")
        return state if "identity" in state else None
    except Exception:
        return None
