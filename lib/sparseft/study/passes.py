"""Decide which sparsities the first pass over a model makes, and which have a pass of their own.

One job makes the masks of a method in one pass. If it had to make one more mask, it would make all of them again. Snakemake
would then train on them again, although no bit has changed. So a sparsity that you add to a study later has its own pass.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.storage.atomic import write_json
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.flags import flags
from sparseft.study.grid import ADDED_SUFFIX, MASK_PLOT, MASK_PLOTS, MASK_REPORT, mask_folder, mask_path

# The running Snakemake command writes it for its jobs on other machines.
FIRST_PASS = Path("masks/first_pass.json")
_REMEDY = f"delete {FIRST_PASS}, and start the same command again"


def first_and_added(config: Config) -> tuple[list[int], list[int]]:
    """Return the grid's sparsities, in percent: those of the first pass, and those that have a pass of their own.

    The existing masks of the grid decide. No pass makes an existing mask together with a missing one. The masks of a method
    that updates weights have a job per sparsity, so they decide nothing."""
    grid = config.grid
    added: set[int] = set()
    in_passes = [method for method in grid.methods if not get_method(method).updates_weights]
    for model, method, task in product(grid.models, in_passes, grid.tasks):
        added |= _added(grid.sparsities, model, method, task)
    first = [percent for percent in grid.sparsities if percent not in added]
    return first, sorted(added)


def record(first: list[int]) -> None:
    """Write the sparsities of the first pass for the jobs of this command, which start when some masks exist already."""
    write_json(FIRST_PASS, {"sparsities": first})


def recorded(config: Config) -> tuple[list[int], list[int]]:
    """Return what `first_and_added` returned to the command that started this job. Raises InputError for a damaged record."""
    if not FIRST_PASS.exists():
        return first_and_added(config)
    first = read_json(FIRST_PASS, _REMEDY).get("sparsities")
    if not isinstance(first, list) or not all(type(percent) is int and 0 <= percent < 100 for percent in first):
        raise InputError(f"{FIRST_PASS}: holds no list of sparsities", _REMEDY)
    return first, [percent for percent in config.grid.sparsities if percent not in first]


def _added(sparsities: list[int], model: str, method: str, task: str) -> set[int]:
    """Return the sparsities of one model and method that have, or must have, a pass of their own."""
    folder = Path(mask_folder(method).format(model=model, task=task))
    own_pass = set()
    made = set()
    for percent in sparsities:
        names = {"model": model, "method": method, "task": task, "sparsity": f"{percent:02d}"}
        if (folder / MASK_REPORT.format(name=f"{method}{ADDED_SUFFIX.format(**names)}")).exists():
            own_pass.add(percent)
        if Path(mask_path(method).format(**names)).exists():
            made.add(percent)
    first_pass_is_made = bool(made - own_pass)
    missing = set(sparsities) - made
    return own_pass | missing if first_pass_is_made else own_pass


def report_file(folder: str, name: str) -> str:
    """Return the path of the report of one pass. `name` is the method; for a sparsity's own pass it ends in ADDED_SUFFIX."""
    return f"{folder}/{MASK_REPORT.format(name=name)}"


def plot_files(folder: str, name: str) -> list[str]:
    """Return the paths of the plots of one pass."""
    return [f"{folder}/{MASK_PLOT.format(plot=plot, name=name)}" for plot in MASK_PLOTS]


def suffix_flag(wildcards: Mapping[str, str]) -> str:
    """Return the flag with the suffix of the names of report and plots; empty for the first pass."""
    sparsity = wildcards.get("sparsity")
    return flags(suffix=ADDED_SUFFIX.format(sparsity=sparsity) if sparsity else None)


def fractions(wildcards: Mapping[str, str], first_pass: list[str]) -> str:
    """Return the sparsities of a pass as fractions, as text for a shell command. `first_pass` is in percent, two digits each."""
    sparsity = wildcards.get("sparsity")
    if sparsity:
        percents = [sparsity]
    elif wildcards.get("method"):
        percents = first_pass
    else:
        percents = ["00"]
    return " ".join(f"0.{percent}" for percent in percents)
