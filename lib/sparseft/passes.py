"""Which sparsities one pass over a model makes, and which have a pass of their own.

One job makes the masks of a method in one pass. If it were asked for one mask more, it would make all of them again. Snakemake
would then train on them again, although no bit has changed. So a sparsity that is added to a study later has its own pass.
"""

from itertools import product
from pathlib import Path

from sparseft.config import Config
from sparseft.errors import InputError
from sparseft.files import read_json, write_json
from sparseft.grid import ADDED_SUFFIX, MASK_REPORT, mask_folder, mask_path

FIRST_PASS = Path("masks/first_pass.json")  # of the Snakemake command that runs, for its jobs on other machines
_MEND = f"delete {FIRST_PASS}, and start the same command again"


def first_and_added(config: Config) -> tuple[list[int], list[int]]:
    """Return the grid's sparsities, in percent: those of the first pass, and those that have a pass of their own.

    The masks of the grid that are there decide. No pass makes a mask that is there together with one that is missing."""
    grid = config.grid
    added: set[int] = set()
    for model, method, task in product(grid.models, grid.methods, grid.tasks):
        added |= _added(grid.sparsities, model, method, task)
    first = [percent for percent in grid.sparsities if percent not in added]
    return first, sorted(added)


def record(first: list[int]) -> None:
    """Write the sparsities of the first pass for the jobs of this command: they start when some masks are there already."""
    write_json(FIRST_PASS, {"sparsities": first})


def recorded(config: Config) -> tuple[list[int], list[int]]:
    """Return what `first_and_added` returned to the command that started this job. Raises InputError for a damaged record."""
    if not FIRST_PASS.exists():
        return first_and_added(config)
    first = read_json(FIRST_PASS, _MEND).get("sparsities")
    if not isinstance(first, list) or not all(type(percent) is int and 0 <= percent < 100 for percent in first):
        raise InputError(f"{FIRST_PASS}: a list of sparsities is expected", _MEND)
    return first, [percent for percent in config.grid.sparsities if percent not in first]


def _added(sparsities: list[int], model: str, method: str, task: str) -> set[int]:
    """Return the sparsities of one model and method that have, or must have, a pass of their own."""
    folder = Path(mask_folder(method).format(model=model, task=task))
    own, made = set(), set()
    for percent in sparsities:
        names = {"model": model, "method": method, "task": task, "sparsity": f"{percent:02d}"}
        if (folder / MASK_REPORT.format(name=f"{method}{ADDED_SUFFIX.format(**names)}")).exists():
            own.add(percent)
        if Path(mask_path(method).format(**names)).exists():
            made.add(percent)
    has_begun = bool(made - own)
    return own | (set(sparsities) - made) if has_begun else own
