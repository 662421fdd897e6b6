"""Which sparsities one pass over a model makes: those that a study began with. One that is added later has its own.

One job makes the masks of a method in one pass. Asked for one mask more it would make all of them again, and Snakemake would
train on them again, though not a bit has changed.
"""

from pathlib import Path

from sparseft.config import Config
from sparseft.errors import InputError
from sparseft.files import read_json, write_json

FIRST_PASS = Path("masks/first_pass.json")
_MEND = f"delete {FIRST_PASS}, and the masks are made again"


def first_and_added(config: Config) -> tuple[list[int], list[int]]:
    """The grid's sparsities, percent: those that the study began with, all where it has none of their masks; and the others.

    Raises InputError for a damaged FIRST_PASS."""
    grid, begun = config.grid.sparsities, _begun()
    first = [percent for percent in grid if percent in begun] or grid
    return first, [percent for percent in grid if percent not in first]


def begin(config: Config) -> None:
    """Remember what the study begins with; of a study that has begun, nothing changes."""
    if not set(_begun()) & set(config.grid.sparsities):
        write_json(FIRST_PASS, {"sparsities": config.grid.sparsities})


def _begun() -> list[int]:
    """What FIRST_PASS says, as long as there are masks."""
    if not FIRST_PASS.exists() or not any(FIRST_PASS.parent.rglob("*.pt")):
        return []
    begun = read_json(FIRST_PASS, _MEND).get("sparsities")
    if not begun or not isinstance(begun, list) or not all(type(p) is int and 0 <= p < 100 for p in begun):
        raise InputError(f"{FIRST_PASS}: a list of sparsities is expected", _MEND)
    return begun
