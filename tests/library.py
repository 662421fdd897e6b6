"""Give a fork of a server the library of its request. What the server has imported of that library is not imported again."""

import sys
from pathlib import Path

import sparseft
from sparseft.study.digests import read_code

LIBRARY = str(Path(sparseft.__file__).parents[1])
# sparseft sets these when a script imports it, if the user has not.
VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DISABLE_MULTIPROC": "1", "TQDM_DISABLE": "1"}


def read_sources() -> None:
    """Parse all files of the library, which takes half of the time of a plan. The digests of all forks then know them."""
    for file in Path(LIBRARY).rglob("*.py"):
        read_code(file.read_bytes())


def use_library(folder: str) -> None:
    """Import sparseft from `folder` from now on, and forget what was imported from another folder."""
    if folder != LIBRARY:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sparseft"]:
            del sys.modules[name]
    # After the folder of the script.
    sys.path.insert(1, folder)
