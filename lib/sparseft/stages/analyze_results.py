"""Turn the run folders of a study into tables, figures and pages.

    analyze_results.py --results_dir results/runs --output_dir results/analysis --plot

The output folder then has:

    report.html                  the page to send
    findings.txt                 the verdicts, which are also printed
    EXPERIMENTS.md               the same, for a repository
    correctness_memo.md          what was checked
    summary.csv                  a row per run
    grouped_summary.csv          a row per cell
    comparisons.csv              a row per pair of cells and measure
    sparsity_vs_performance.csv  a row per point of a curve
    settings.csv                 a row per run: its settings, hashes and versions
    missing.csv                  runs that are missing or incomplete, with the reason
    plots/                       the figures, with --plot
    baseline_comparison.csv      other numbers beside these, with --baseline

The figures, and a baseline_comparison.csv, of an earlier call are removed if this call does not write them. Keep no
file of yours in plots/, which is replaced whole.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from sparseft.axes.grid import CONFIGURATION, FINDINGS, PAGES, REPORT, TABLES, Run
from sparseft.common.command import Flags
from sparseft.common.section import flags
from sparseft.storage.atomic import atomic_files, atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.study.config import Analysis, Config
from sparseft.study.configfiles import read_configuration


def settings(config: Config, wildcards: Any) -> dict:
    """Return the folder of the runs, and what the tables and pages judge by."""
    return {"results_dir": config.paths.runs, "plot": True, **config.analysis.model_dump()}


# Raise it when the results change.
VERSION = 1
COMPARED = "baseline_comparison.csv"
# The columns of that table that are printed, behind its keys.
PRINTED = ["metric", "value", "baseline_value", "difference", "reproduction", "source"]


def run(
    *,
    results_dir: Path,
    output_dir: Path,
    plot: bool = False,
    baseline: Path | None = None,
    configuration: Path | None = None,
    options: Flags[Analysis] = Analysis(),
) -> None:
    """Analyse the runs, and print the verdicts.

    Args:
        results_dir: folder with the run folders
        output_dir: folder for the tables and pages
        plot: also draw the figures, into output_dir/plots
        baseline: numbers to compare with, a .csv file like config/baseline.csv
        configuration: the study's configuration; it is copied into the output folder
    """
    from sparseft.analysis.baseline import KEYS, beside, read_baseline
    from sparseft.analysis.figures import write_figures
    from sparseft.analysis.pages import write_pages
    from sparseft.analysis.reproduce import commands
    from sparseft.analysis.study import read_study
    from sparseft.analysis.tables import KNOWN_BY, compute, write_csv, write_tables

    outputs = [output_dir / name for name in (*TABLES, FINDINGS, REPORT, *PAGES, "plots")]
    check_apart([*outputs, output_dir / COMPARED], [baseline, configuration])
    check_apart([output_dir], [results_dir])
    record = output_dir / TABLES[0]
    check_ours(record, KNOWN_BY, *outputs)
    # By its own first line, because Snakemake may have deleted the record, but not this table.
    check_ours(output_dir / COMPARED, ",".join(KEYS))
    # A damaged file is refused before anything is computed.
    theirs = read_baseline(baseline) if baseline else None
    study = read_configuration([configuration]) if configuration else None
    hold(output_dir)
    frames = read_study(results_dir, study)
    results = compute(frames, options, study)
    # Without --configuration, that of an earlier analysis is deleted at the end, because it would not describe these
    # tables. Without an earlier analysis, a file of this name is another program's, and stays.
    is_stale = not configuration and record.exists()
    compared = beside(results.cells, theirs) if baseline else None
    # The flags that decide what the tables and pages show. The pages print them in the command that repeats them.
    options_again = " ".join([*["--plot"] * plot, flags(**options.model_dump(), baseline=baseline)])
    first = Run.parse(results.runs["run_id"].iloc[0])
    printed = commands(results_dir, first, configuration, options_again)
    # All figures, tables and pages together, or none.
    files = atomic_files(record, KNOWN_BY)
    with atomic_folder(output_dir / "plots", record.absolute(), KNOWN_BY) as plots, files as folder:
        figures = write_figures(plots, results) if plot else []
        write_tables(results, folder)
        write_pages(folder, plots, results, figures, printed)
        if baseline:
            write_csv(compared, folder / COMPARED)
        if configuration and configuration.resolve() != (output_dir / CONFIGURATION).resolve():
            shutil.copyfile(configuration, folder / CONFIGURATION)
    print(f"{(output_dir / FINDINGS).read_text(encoding='utf-8')}Tables and pages: {output_dir}/")
    # These lines come when all is written, so that an error has one line.
    words = {"missing": "left out", "incomplete": "incomplete"}
    for fault in frames.faults[frames.faults.kind.isin(words)].itertuples():
        print(f"{words[fault.kind]}: {fault.run_id}: {fault.text}", file=sys.stderr)
    if baseline:
        print(compared[[*KEYS, *PRINTED]].to_string(index=False), file=sys.stderr)
    else:
        (output_dir / COMPARED).unlink(missing_ok=True)
    if is_stale:
        (output_dir / CONFIGURATION).unlink(missing_ok=True)
