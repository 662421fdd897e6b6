"""Turn the run folders into tables, plots, a correctness memo and a write-up, with whatever runs are there.

    analyze_results.py --results_dir results/runs --output_dir results/analysis --plot

With --baseline FILE.csv ours stand beside another project's numbers: baseline_comparison.csv, and marks in the figures.
Writes to the output folder: summary.csv (a row a run), grouped_summary.csv, sparsity_vs_performance.csv,
comparisons.csv (tests and intervals), best_tradeoffs.csv, layer_sparsity.csv, missing.csv (runs left out, with the
reason), correctness_memo.md, EXPERIMENTS.md and, with --plot, plots/. Figures that an earlier call left there, and a
baseline_comparison.csv, are removed where this one does not write them.
"""

import argparse
import gc
import shutil
import sys
from pathlib import Path

from sparseft.analysis import experiments, memo, tables
from sparseft.analysis.baseline import beside, read_baseline, without_counterpart
from sparseft.analysis.comparisons import compare, judge
from sparseft.analysis.leftovers import remove_leftovers
from sparseft.analysis.records import read_runs
from sparseft.analysis.reproduce import reproduction
from sparseft.analysis.tradeoffs import tradeoffs
from sparseft.config import Analysis, Config, add_flags, parse_section
from sparseft.configfiles import read_configuration
from sparseft.errors import InputError, run_script
from sparseft.files import hold, staged
from sparseft.grid import CONFIGURATION, TABLES

MAX_PROCESSES = 64
COMPARED = "baseline_comparison.csv"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the tables and pages")
    parser.add_argument("--plot", action="store_true", help="draw the figures too, into output_dir/plots")
    parser.add_argument("--processes", type=int, default=2, help="that draw side by side; any number, the same figures")
    parser.add_argument("--baseline", type=Path, help="another project's numbers, a .csv file as config/baseline.csv")
    parser.add_argument(
        "--configuration", type=Path, help="the study's configuration; it is copied into the output folder"
    )
    add_flags(parser, Analysis, Analysis.model_fields)
    return parser.parse_args()


def options(args: argparse.Namespace) -> list[str]:
    """Return the flags that decide what the tables and pages show, as they are printed to be typed again."""
    flags = ["--tolerance", str(args.tolerance)]
    if args.plot:
        flags.append("--plot")
    if args.baseline:
        flags += ["--baseline", str(args.baseline)]
    return flags


def main() -> int:
    """Read, compute, write, show."""
    args = parse_args()
    tolerance = parse_section(Analysis, {"tolerance": args.tolerance}, "analysis").tolerance
    if not 1 <= args.processes <= MAX_PROCESSES:
        raise InputError(f"--processes {args.processes}: not a number of processes", f"give 1 to {MAX_PROCESSES}")
    baseline = read_baseline(args.baseline) if args.baseline else None
    study: Config | None = read_configuration([args.configuration]) if args.configuration else None
    again = reproduction(args.results_dir, options(args), args.configuration, study)
    hold(args.output_dir)
    records, gaps = read_runs(args.results_dir)
    gc.freeze()  # statsmodels collects garbage in every correction: it need not look at a whole study each time
    for gap in gaps:
        print(f"{'left out' if gap.left_out else 'incomplete'}: {gap.run_id}: {gap.reason}", file=sys.stderr)
    judged = memo.judge_runs(records)
    runs = tables.summary(judged)
    cells = tables.grouped(runs)
    comparisons = compare(records)
    points = judge(tables.curves(cells), comparisons, tolerance)
    best = tradeoffs(points)
    layers, failed = tables.layer_sparsity(records), sum(runs["faults"] > 0)
    left_out = sum(gap.left_out for gap in gaps)
    with staged(args.output_dir) as folder:  # tables, pages and figures of one moment, or none
        if baseline is not None:
            table = beside(points, baseline)
            for line in without_counterpart(table):
                print(line, file=sys.stderr)
            tables.write_csv(table, folder / COMPARED)
        plots = []
        if args.plot:
            from sparseft.analysis.plots import write_plots  # seaborn takes a second to import

            plots = write_plots(points, best, layers, folder / "plots", args.processes, baseline)
        found = experiments.Study(cells, points, comparisons, best, tolerance)
        experiments.write_experiments(
            folder / "EXPERIMENTS.md", records, found, left_out=left_out, plots=plots, reproduction=again
        )
        memo.write_memo(folder / "correctness_memo.md", judged, gaps, again)
        kept = args.output_dir / CONFIGURATION
        if args.configuration and args.configuration.resolve() != kept.resolve():
            shutil.copyfile(args.configuration, folder / CONFIGURATION)
        every = [runs, cells, points, comparisons, best, layers, tables.missing(gaps)]
        for name, table in zip(TABLES, every, strict=True):
            tables.write_csv(table, folder / f"{name}.csv")
        figures = {path.name for path in folder.glob("plots/*")}
    remove_leftovers(args.output_dir / "plots", figures)  # of other runs
    if baseline is None:
        (args.output_dir / COMPARED).unlink(missing_ok=True)
    print(experiments.results_table(cells).to_string(index=False))
    print(f"\n{len(records)} runs, {failed} with a fault, {left_out} left out: {args.output_dir}/")
    return 0


if __name__ == "__main__":
    run_script(main)
