"""Turn the run folders of a study into tables, plots, a correctness memo, a write-up and a results page.

    analyze_results.py --results_dir results/runs --output_dir results/analysis --plot

The output folder then has:

    report.html                  the results page
    findings.txt                 the findings, which are also printed
    EXPERIMENTS.md               the write-up of the study
    correctness_memo.md          what was checked
    summary.csv                  a row per run
    grouped_summary.csv          a row per cell
    sparsity_vs_performance.csv  a row per point of a curve
    comparisons.csv              tests and intervals
    best_tradeoffs.csv           the best points
    budget.csv                   a row per training of a cell: what it cost and reached
    layer_sparsity.csv           a row per pruned layer
    missing.csv                  runs that are missing or incomplete, with the reason
    plots/                       the figures, with --plot
    baseline_comparison.csv      another project's numbers beside these, with --baseline

Figures and a baseline_comparison.csv of an earlier call are removed if this call does not write them.
"""

import argparse
import gc
import shutil
import sys
from pathlib import Path

from sparseft.analysis import columns, experiments, findings, memo, overview, report, tables, tuning_text
from sparseft.analysis.baseline import beside, read_baseline, without_counterpart
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.judgement import Judged, judge_runs
from sparseft.analysis.leftovers import remove_leftovers
from sparseft.analysis.records import Gap, read_measurements, read_runs
from sparseft.analysis.reproduce import reproduction
from sparseft.analysis.settings import outside
from sparseft.errors import InputError, run_script
from sparseft.storage.atomic import atomic_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours, is_marked
from sparseft.study.config import Analysis, Config, add_flags, parse_section
from sparseft.study.configfiles import read_configuration
from sparseft.study.grid import CONFIGURATION, FINDINGS, PAGES, REPORT
from sparseft.study.targets import runs as configured_runs

MAX_PROCESSES = 64
COMPARED = columns.BASELINE.file


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
    parser.add_argument("--baseline", type=Path, help="another project's numbers, a .csv file like config/baseline.csv")
    parser.add_argument(
        "--configuration", type=Path, help="the study's configuration; it is copied into the output folder"
    )
    parser.add_argument(
        "--throughput_dir",
        type=Path,
        help="folder with the measurements of the stage throughput, for the seconds in budget.csv; they may be missing",
    )
    add_flags(parser, Analysis, Analysis.model_fields)
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError if an output would replace an input, or a file that this program did not write."""
    names = [table.file for table in columns.STUDY_TABLES] + [COMPARED, FINDINGS, REPORT, *PAGES]
    places = [args.output_dir / name for name in names]
    check_apart([args.output_dir], [args.results_dir])
    check_apart(places, [args.baseline, args.configuration])
    check_ours(args.output_dir, "analysis", *places)


def options(args: argparse.Namespace) -> list[str]:
    """Return the flags that decide what the tables and pages show. The pages print them in the command that repeats them."""
    flags = ["--tolerance", str(args.tolerance)]
    if args.plot:
        flags.append("--plot")
    if args.throughput_dir:
        flags += ["--throughput_dir", str(args.throughput_dir)]
    if args.baseline:
        flags += ["--baseline", str(args.baseline)]
    return flags


def read(results_dir: Path, study: Config | None) -> tuple[list[Judged], list[Gap]]:
    """Return the judged runs and the gaps. Print to stderr which runs are left out of the tables, and why."""
    records, gaps = read_runs(results_dir, study)
    # statsmodels collects garbage in every correction, which takes long with a whole study in memory.
    gc.freeze()
    for gap in gaps:
        print(f"{'left out' if gap.left_out else 'incomplete'}: {gap.run_id}: {gap.reason}", file=sys.stderr)
    judged = judge_runs(records, outside(records, study) if study else {})
    for run in judged:
        if run.outside:
            print(f"outside the study: {run.record.run.id}: {run.outside}", file=sys.stderr)
    if all(run.outside for run in judged):
        raise InputError(f"{results_dir}: no run of the configured study", "make them, or leave --configuration out")
    return judged, gaps


def derive_tables(args: argparse.Namespace, judged: list[Judged], gaps: list[Gap], study: Config | None) -> Derived:
    """Return the tables of the runs.

    A damaged run that the configuration does not request is no training that was tried. A requested run that was made with
    other settings is missing."""
    trainings: list[str] = []
    if study:
        requested = {run.id for run in configured_runs(study)}
        gaps = [gap for gap in gaps if gap.run_id in requested]
        outside = [run for run in judged if run.outside and run.record.run.id in requested]
        gaps += [Gap(run.record.run.id, True, run.outside) for run in outside]
        trainings = list(study.grid.trainings)
    files = sorted(args.throughput_dir.glob("*.json")) if args.throughput_dir else []
    return derive(judged, args.tolerance, gaps, trainings=trainings, measurements=read_measurements(files))


def write(
    folder: Path,
    args: argparse.Namespace,
    judged: list[Judged],
    gaps: list[Gap],
    derived: Derived,
    study: Config | None,
) -> None:
    """Write every table, page and figure into a folder."""
    again = reproduction(args.results_dir, options(args), args.configuration, study)
    baseline = read_baseline(args.baseline) if args.baseline else None
    sound = derived.points[derived.points["n_sound"] == derived.points["n"]]
    if baseline is not None:
        table = beside(sound, baseline)
        for line in without_counterpart(table):
            print(line, file=sys.stderr)
        tables.write_csv(table, folder / COMPARED)
    plots = []
    if args.plot:
        # The import of seaborn takes a second.
        from sparseft.analysis.plots import write_plots

        plots = write_plots(
            sound, derived.best, derived.layers, folder / "plots", args.processes, baseline, derived.budget
        )
    experiments.write_experiments(
        folder / "EXPERIMENTS.md",
        judged,
        gaps,
        derived,
        args.tolerance,
        plots=[f"{plot.name}.png" for plot in plots],
        reproduction=again,
    )
    tuning = tuning_text.section(derived.budget, [run.record for run in judged if run.in_study])
    memo.write_memo(folder / "correctness_memo.md", judged, gaps, again, tuning, findings.overlaps(derived.runs))
    overview.write_overview(folder / FINDINGS, judged, gaps, derived, args.tolerance)
    report.write_report(folder / REPORT, judged, gaps, derived, args.tolerance, plots)
    if args.configuration and args.configuration.resolve() != (args.output_dir / CONFIGURATION).resolve():
        shutil.copyfile(args.configuration, folder / CONFIGURATION)
    write_tables(folder, judged, gaps, derived)


def write_tables(folder: Path, judged: list[Judged], gaps: list[Gap], derived: Derived) -> None:
    """Write every table into a folder, as a .csv file."""
    content = {
        columns.SUMMARY: derived.runs,
        columns.GROUPED: derived.cells,
        columns.CURVES: derived.points,
        columns.COMPARISONS: derived.comparisons,
        columns.TRADEOFFS: derived.best,
        columns.BUDGET: derived.budget,
        columns.LAYERS: derived.layers,
        columns.MISSING: tables.missing(gaps),
    }
    for described, table in content.items():
        tables.write_csv(table, folder / described.file)


def main() -> int:
    """Analyse the runs, print the findings, and return the exit code."""
    args = parse_args()
    args.tolerance = parse_section(Analysis, {"tolerance": args.tolerance}, "analysis").tolerance
    if not 1 <= args.processes <= MAX_PROCESSES:
        raise InputError(
            f"--processes {args.processes}: not between 1 and {MAX_PROCESSES}", "give a number in this range"
        )
    check_outputs(args)
    if args.baseline:
        # A damaged file is refused before anything is computed.
        read_baseline(args.baseline)
    study = read_configuration([args.configuration]) if args.configuration else None
    hold(args.output_dir)
    judged, gaps = read(args.results_dir, study)
    derived = derive_tables(args, judged, gaps, study)
    # The configuration of an earlier analysis would not describe these tables. Another program's file stays.
    is_stale = not args.configuration and is_marked(args.output_dir, "analysis")
    # All tables, pages and figures are replaced together, or none is.
    with atomic_files(args.output_dir, FINDINGS, "analysis") as folder:
        write(folder, args, judged, gaps, derived, study)
        figures = {path.name for path in folder.glob("plots/*")}
    if args.plot:
        # The rule promises the folder. It has no figure if every run has a fault.
        (args.output_dir / "plots").mkdir(exist_ok=True)
    remove_leftovers(args.output_dir / "plots", figures)
    if not args.baseline:
        (args.output_dir / COMPARED).unlink(missing_ok=True)
    if is_stale:
        (args.output_dir / CONFIGURATION).unlink(missing_ok=True)
    print(f"{(args.output_dir / FINDINGS).read_text(encoding='utf-8')}Tables and pages: {args.output_dir}/")
    return 0


if __name__ == "__main__":
    run_script(main)
