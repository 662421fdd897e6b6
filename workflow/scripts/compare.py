"""Lay finished studies side by side: the same tables, comparisons and page, with a column for the study.

    compare.py results/first results/second --output_dir results/compared

A study is its results folder, which has runs/ and, if its configuration was analysed, analysis/configuration.yaml. Each
cell is compared with the same cell of the first study, over the same examples."""

import os
from pathlib import Path

from sparseft.analysis.pages import write_analysis
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.study import Frames, read_study, side_by_side
from sparseft.analysis.tables import compute
from sparseft.command import Flags, run
from sparseft.errors import InputError
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_ours
from sparseft.study.config import Analysis
from sparseft.study.configfiles import read_configuration
from sparseft.study.grid import CONFIGURATION, FINDINGS
from sparseft.study.section import flags

AXES = ["model", "task", "method", "sparsity", "mode", "training"]


def read(folder: Path) -> Frames:
    """Return the frames of the study in a results folder. Its configuration, if it is there, decides which runs belong
    to it."""
    configuration = folder / "analysis" / CONFIGURATION
    return read_study(folder / "runs", read_configuration([configuration]) if configuration.is_file() else None)


def lacking(first: Frames, other: Frames) -> str:
    """Return what a study lacks, so that none of its cells can be compared with one of the first study."""
    apart = [axis for axis in AXES if set(first.runs[axis]).isdisjoint(other.runs[axis])]
    lacks = [f"{axis} {' or '.join(map(str, first.runs[axis].unique())) or 'without a name'}" for axis in apart]
    if lacks or first.runs[AXES].merge(other.runs[AXES]).empty:
        return f"it has no {' and no '.join(lacks) or 'cell of it'}"
    return "the cells that both have contain a fault, or were evaluated on other examples"


def main(*studies: Path, output_dir: Path, options: Flags[Analysis] = Analysis()) -> None:
    """Write the tables and pages of the studies together, and print the verdicts.

    Args:
        studies: results folders; each is compared with the first
        output_dir: folder for the tables and pages
    """
    names = [Path(os.path.abspath(folder)).name for folder in studies]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"{', '.join(names)}: not two or more studies of different names", "name results folders")
    check_ours(output_dir, "analysis", output_dir / FINDINGS, inputs=studies)
    hold(output_dir)
    frames = [read(folder) for folder in studies]
    results = compute(side_by_side(frames), options)
    of_first = results.comparisons[results.comparisons["question"] == "studies"]
    for name, study in zip(names[1:], frames[1:], strict=True):
        if name not in set(of_first["study"]):
            what = f"{name}: no cell can be compared with one of {names[0]}: {lacking(frames[0], study)}"
            raise InputError(what, "name studies with a model, task, method, sparsity, mode and training in common")
    again = Reproduction(studies[0] / "runs", flags(**options.model_dump()), plot=True, studies=studies)
    write_analysis(output_dir, results, again, processes=1, others={})


if __name__ == "__main__":
    run(main)
