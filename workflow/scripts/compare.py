"""Lay finished studies side by side: the same tables, comparisons and page, with a column for the study.

    compare.py results/first results/second --output_dir results/compared

A study is its results folder, which has runs/ and, if its configuration was analysed, analysis/configuration.yaml. Each cell is
compared with the same cell of the first study, over the same examples.
"""

import argparse
import os
import shlex
from pathlib import Path

from sparseft.analysis.figures import write_figures
from sparseft.analysis.leftovers import remove_leftovers
from sparseft.analysis.pages import write_pages
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.results import compute, write_tables
from sparseft.analysis.study import Frames, read_study, side_by_side
from sparseft.errors import InputError, run_script
from sparseft.storage.atomic import atomic_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.config import Analysis, add_flags
from sparseft.study.configfiles import read_configuration
from sparseft.study.flags import flags
from sparseft.study.grid import CONFIGURATION, FINDINGS
from sparseft.study.section import parse_section


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="results folders; each is compared with the first")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the tables and pages")
    add_flags(parser, Analysis, Analysis.model_fields)
    return parser.parse_args()


def read(folder: Path) -> Frames:
    """Return the frames of the study in a results folder. Its configuration, if it is there, decides which runs belong to it."""
    configuration = folder / "analysis" / CONFIGURATION
    return read_study(folder / "runs", read_configuration([configuration]) if configuration.is_file() else None)


def main() -> int:
    """Write the tables and pages of the studies together, print the verdicts, and return the exit code."""
    args = parse_args()
    options = parse_section(Analysis, {name: getattr(args, name) for name in Analysis.model_fields}, "analysis")
    names = [Path(os.path.abspath(folder)).name for folder in args.studies]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"{', '.join(names)}: not two or more studies of different names", "name results folders")
    check_apart([args.output_dir], args.studies)
    check_ours(args.output_dir, "analysis", args.output_dir / FINDINGS)
    hold(args.output_dir)
    results = compute(side_by_side([read(folder) for folder in args.studies]), options)
    with atomic_files(args.output_dir, FINDINGS, "analysis") as folder:
        write_tables(results, folder)
        figures = write_figures(folder / "plots", results, processes=1)
        again = Reproduction(
            args.studies[0] / "runs", tuple(shlex.split(flags(**options.model_dump()))), studies=tuple(args.studies)
        )
        write_pages(folder, results, figures, again)
        drawn = {path.name for path in folder.glob("plots/*")}
    remove_leftovers(args.output_dir / "plots", drawn)
    print(f"{(args.output_dir / FINDINGS).read_text(encoding='utf-8')}Tables and pages: {args.output_dir}/")
    return 0


if __name__ == "__main__":
    run_script(main)
