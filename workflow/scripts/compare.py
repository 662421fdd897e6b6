"""Lay finished studies side by side: the tables of one study, with the runs of all, and a column for the study.

    compare.py results/first results/second --output_dir results/compared

A study is its results folder, which has runs/ and, if its configuration was analysed, analysis/configuration.yaml. Each
cell is compared with the same cell of the first study, over the same examples. These comparisons are also printed."""

import os
from pathlib import Path

from sparseft.analysis.cells import CELL
from sparseft.analysis.study import Frames, read_study, side_by_side
from sparseft.analysis.tables import compute, write_tables
from sparseft.command import Flags, run
from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_ours
from sparseft.study.config import Analysis
from sparseft.study.configfiles import read_configuration
from sparseft.study.grid import CONFIGURATION, TABLES

# The columns that are printed.
PRINTED = [*CELL, "measure", "value", "against_value", "difference", "p_holm", "verdict"]


def read(folder: Path) -> Frames:
    """Return the frames of the study in a results folder. Its configuration, if it is there, decides which runs belong
    to it."""
    configuration = folder / "analysis" / CONFIGURATION
    return read_study(folder / "runs", read_configuration([configuration]) if configuration.is_file() else None)


def main(*studies: Path, output_dir: Path, options: Flags[Analysis] = Analysis()) -> None:
    """Write the tables of the studies together, and print how they differ from the first one.

    Args:
        studies: results folders; each is compared with the first
        output_dir: folder for the tables
    """
    names = [Path(os.path.abspath(folder)).name for folder in studies]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"{', '.join(names)}: not two or more studies of different names", "name results folders")
    check_ours(output_dir, "comparison", *(output_dir / table for table in TABLES), inputs=studies)
    hold(output_dir)
    results = compute(side_by_side([read(folder) for folder in studies]), options)
    pairs = results.comparisons[results.comparisons["question"] == "studies"]
    if lacking := [name for name in names[1:] if name not in set(pairs["study"])]:
        what = f"{lacking[0]}: no sound cell of it can be compared with one of {names[0]} over the same examples"
        raise InputError(what, "name studies with a model, task, method, sparsity, mode and training in common")
    with atomic_files(output_dir, TABLES[0], "comparison") as folder:
        write_tables(results, folder)
    print(pairs[PRINTED].to_string(index=False))


if __name__ == "__main__":
    run(main)
