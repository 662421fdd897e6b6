"""Turn the run folders of a study into tables, figures and pages.

    analyze_results.py --results_dir results/runs --output_dir results/analysis --plot

The output folder then has:

    report.html                  the page to send
    findings.txt                 the verdicts, which are also printed
    EXPERIMENTS.md               the same, for a repository
    correctness_memo.md          what was checked
    summary.csv                  a row per run
    grouped_summary.csv          a row per cell
    comparisons.csv              a row per pair of cells
    sparsity_vs_performance.csv  a row per point of a curve
    settings.csv                 a row per run: its settings, hashes and versions
    missing.csv                  runs that are missing or incomplete, with the reason
    plots/                       the figures, with --plot
    baseline_comparison.csv      other numbers beside these, with --baseline

Figures and a baseline_comparison.csv of an earlier call are removed if this call does not write them.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from sparseft.analysis import baseline, tables
from sparseft.analysis.figures import write_figures
from sparseft.analysis.leftovers import remove_leftovers
from sparseft.analysis.pages import write_pages
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.results import Results, compute, write_tables
from sparseft.analysis.study import Frames, read_study
from sparseft.errors import InputError, run_script
from sparseft.records.throughput_record import read_measurements
from sparseft.storage.atomic import atomic_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours, is_marked
from sparseft.study.config import Analysis, add_flags
from sparseft.study.configfiles import read_configuration
from sparseft.study.flags import flags
from sparseft.study.grid import CONFIGURATION, FINDINGS, PAGES, REPORT, TABLES
from sparseft.study.section import parse_section

MAX_PROCESSES = 64
COMPARED = "baseline_comparison.csv"


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, required=True, help="folder with the run folders")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the tables and pages")
    parser.add_argument("--plot", action="store_true", help="also draw the figures, into output_dir/plots")
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="number of processes that draw; the figures are the same for any number",
    )
    parser.add_argument("--baseline", type=Path, help="numbers to compare with, a .csv file like config/baseline.csv")
    parser.add_argument(
        "--configuration", type=Path, help="the study's configuration; it is copied into the output folder"
    )
    parser.add_argument(
        "--throughput_dir", type=Path, help="folder with the measurements of the stage throughput, for measured_seconds"
    )
    add_flags(parser, Analysis, Analysis.model_fields)
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> Analysis:
    """Return what the tables are judged by. Raises InputError if a flag is wrong or an output would replace another file."""
    values = {name: getattr(args, name) for name in Analysis.model_fields}
    options = parse_section(Analysis, values, "analysis")
    if not 1 <= args.processes <= MAX_PROCESSES:
        raise InputError(
            f"--processes {args.processes}: not between 1 and {MAX_PROCESSES}", "give a number in this range"
        )
    places = [args.output_dir / name for name in (*TABLES, COMPARED, FINDINGS, REPORT, *PAGES)]
    check_apart([args.output_dir], [args.results_dir])
    check_apart(places, [args.baseline, args.configuration])
    check_ours(args.output_dir, "analysis", *places)
    return options


def repeated_flags(args: argparse.Namespace, options: Analysis) -> list[str]:
    """Return the flags that decide what the tables and pages show. The pages print them in the command that repeats them."""
    files = {name: getattr(args, name) for name in ("throughput_dir", "baseline")}
    return [*shlex.split(flags(**options.model_dump(), **files)), *(["--plot"] if args.plot else [])]


def say_faults(frames: Frames) -> None:
    """Print to stderr which runs are left out of the tables, incomplete or outside the study, and why."""
    words = {"missing": "left out", "incomplete": "incomplete", "outside": "outside the study"}
    for fault in frames.faults.itertuples():
        if fault.kind in words:
            print(f"{words[fault.kind]}: {fault.run_id}: {fault.text}", file=sys.stderr)


def write(folder: Path, args: argparse.Namespace, options: Analysis, results: Results) -> None:
    """Write every table, figure and page into a folder."""
    write_tables(results, folder)
    if args.baseline:
        table = baseline.beside(results.cells, baseline.read_baseline(args.baseline))
        tables.write_csv(table, folder / COMPARED)
    figures = write_figures(folder / "plots", results, args.processes) if args.plot else []
    again = Reproduction(args.results_dir, tuple(repeated_flags(args, options)), args.configuration)
    write_pages(folder, results, figures, again)
    if args.configuration and args.configuration.resolve() != (args.output_dir / CONFIGURATION).resolve():
        shutil.copyfile(args.configuration, folder / CONFIGURATION)


def main() -> int:
    """Analyse the runs, print the verdicts, and return the exit code."""
    args = parse_args()
    options = check_args(args)
    if args.baseline:
        # A damaged file is refused before anything is computed.
        baseline.read_baseline(args.baseline)
    study = read_configuration([args.configuration]) if args.configuration else None
    files = sorted(args.throughput_dir.glob("*.json")) if args.throughput_dir else []
    measurements = read_measurements(files)
    hold(args.output_dir)
    frames = read_study(args.results_dir, study)
    say_faults(frames)
    results = compute(frames, options, study, measurements)
    # The configuration of an earlier analysis would not describe these tables. Another program's file stays.
    is_stale = not args.configuration and is_marked(args.output_dir, "analysis")
    # All tables, pages and figures are replaced together, or none is.
    with atomic_files(args.output_dir, FINDINGS, "analysis") as folder:
        write(folder, args, options, results)
        drawn = {path.name for path in folder.glob("plots/*")}
    if args.plot:
        # The rule promises the folder. It has no figure if every run has a fault.
        (args.output_dir / "plots").mkdir(exist_ok=True)
    remove_leftovers(args.output_dir / "plots", drawn)
    if not args.baseline:
        (args.output_dir / COMPARED).unlink(missing_ok=True)
    if is_stale:
        (args.output_dir / CONFIGURATION).unlink(missing_ok=True)
    print(f"{(args.output_dir / FINDINGS).read_text(encoding='utf-8')}Tables and pages: {args.output_dir}/")
    return 0


if __name__ == "__main__":
    run_script(main)
