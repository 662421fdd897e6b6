"""The measurements of a cell's batch sizes, made one by one, as the one file that the analysis reads."""

from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.record import read_record
from sparseft.study.grid import MEASURED

PROGRAM = ("micro_batch_size", "compile_hash")  # of a batch size
OWN = {"batch_size", "seed", "repeat", *PROGRAM}  # what differs from one file to another; the rest is the cell's


def join(paths: list[Path]) -> dict:
    """The content of a cell's file from those of measure_cerebras.py, a repeat a file.

    Raises InputError where two were measured under different conditions, where a repeat is there twice or one is missing."""
    found = {path: read_record(path) for path in paths}
    first, *others = found
    try:
        common = {name: value for name, value in found[first].items() if name not in OWN}
        for path in others:
            _check_alike(common, found[path], first, path)
        repeats = {(each["batch_size"], each["seed"]): each["repeat"] | {name: each[name] for name in PROGRAM}
                   for each in found.values()}  # fmt: skip
    except KeyError as error:
        raise InputError(f"{first.parent.parent}: a measurement without {error}", "measure them again") from None
    sizes, seeds = (sorted({key[place] for key in repeats}) for place in (0, 1))
    if len(repeats) != len(paths) or len(paths) != len(sizes) * len(seeds):
        raise InputError(f"{first.parent.parent}: not {len(seeds)} repeats of every batch size", "measure them again")
    batches = [
        {"batch_size": size, "status": MEASURED, "reason": None,
         "repeats": [repeats[size, seed] for seed in seeds]}
        for size in sizes
    ]  # fmt: skip
    nothing = {"memory_limit_kind": None, "memory_limit_bytes": None}  # the wafer's memory has no limit to set
    return common | nothing | {"repeats": len(seeds), "batch_sizes": sizes, "batches": batches}


def _check_alike(common: dict, other: dict, first: Path, path: Path) -> None:
    """Raises InputError, naming them, where conditions differ."""
    differing = sorted(name for name in (common.keys() | other.keys()) - OWN if common.get(name) != other.get(name))
    if differing:
        raise InputError(f"{path}: {', '.join(differing)} are not those of {first}", "remove both, and measure again")
