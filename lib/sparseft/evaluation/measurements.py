"""Join the measurements of a cell, each made by a job of its own, into the one file that the analysis reads."""

from collections.abc import Mapping
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.record import read_record
from sparseft.study.grid import MEASURED

# The fields that belong to the compiled program of a batch size.
PROGRAM = ("micro_batch_size", "compile_hash")
# The fields that differ between the files of a cell. All others must be equal.
OWN = {"record", "batch_size", "seed", "repeat", *PROGRAM}
# A CS-3 has no limit that a study could set.
NO_LIMIT = {"memory_limit_kind": None, "memory_limit_bytes": None}


def join(paths: list[Path]) -> dict:
    """Return the content of a cell's file from the files of measure_cerebras.py, one per repeat and batch size.

    Raises InputError if two were measured under different conditions, if a repeat is there twice, or if one is missing."""
    records = {path: read_record(path) for path in paths}
    cell = paths[0].parent.parent
    try:
        common = _common_fields(records)
        repeats = {
            (record["batch_size"], record["seed"]): record["repeat"] | {name: record[name] for name in PROGRAM}
            for record in records.values()
        }
    except KeyError as error:
        raise InputError(f"{cell}: a measurement without {error}", "measure them again") from None
    sizes = sorted({size for size, _ in repeats})
    seeds = sorted({seed for _, seed in repeats})
    if len(repeats) != len(paths) or len(paths) != len(sizes) * len(seeds):
        raise InputError(f"{cell}: not {len(seeds)} repeats of every batch size", "measure them again")
    batches = [
        {"batch_size": size, "status": MEASURED, "reason": None, "repeats": [repeats[size, seed] for seed in seeds]}
        for size in sizes
    ]
    return common | NO_LIMIT | {"repeats": len(seeds), "batch_sizes": sizes, "batches": batches}


def _common_fields(records: Mapping[Path, dict]) -> dict:
    """Return the fields that all records of a cell share. Raises InputError, with their names, if some differ."""
    first, *others = records
    common = {name: value for name, value in records[first].items() if name not in OWN}
    for path in others:
        other = records[path]
        names = (common.keys() | other.keys()) - OWN
        differing = sorted(name for name in names if common.get(name) != other.get(name))
        if differing:
            raise InputError(
                f"{path}: {', '.join(differing)} differ from those of {first}", "remove both, and measure again"
            )
    return common
