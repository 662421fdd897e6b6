"""Make a fork import the library that its request names. What the server has imported of that library stays imported."""

import os
import sys
from pathlib import Path

import sparseft
from sparseft.study.digests import read_code

LIBRARY = str(Path(sparseft.__file__).parents[1])
# What sparseft and its harness set when they are imported, if it is not set. A fork does not import them again.
VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DISABLE_MULTIPROC": "1", "TQDM_DISABLE": "1"}


def read_sources() -> None:
    """Parse all files of the library, which takes half of the time of a plan. `read_code` keeps the result by their content."""
    for file in Path(LIBRARY).rglob("*.py"):
        read_code(file.read_bytes())


def use_path(folder: str, libraries: str) -> None:
    """Import from `folder` first, and then from `libraries`, which has the form of PYTHONPATH.

    If sparseft is another library there, forget what was imported of it."""
    folders = libraries.split(os.pathsep)
    if folders[0] != LIBRARY:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sparseft"]:
            del sys.modules[name]
    # The first entry was the folder of the server.
    sys.path[:1] = [folder, *folders]
