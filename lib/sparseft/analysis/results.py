"""Compute every table of a study from its two frames, and write them."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparseft.analysis import tables
from sparseft.analysis.cells import KEYS, pool
from sparseft.analysis.comparisons import compare_cells, curves
from sparseft.analysis.study import OUTSIDE, Frames, in_order
from sparseft.analysis.throughput import measured_seconds
from sparseft.errors import InputError
from sparseft.records.throughput_record import ThroughputRecord
from sparseft.study.config import Analysis, Config
from sparseft.study.grid import DENSE

FILES = {
    "summary.csv": ("runs", tables.RUNS),
    "grouped_summary.csv": ("cells", tables.CELLS),
    "comparisons.csv": ("comparisons", tables.COMPARISONS),
    "sparsity_vs_performance.csv": ("curves", tables.CURVES),
    "missing.csv": ("missing", tables.MISSING),
}


@dataclass(frozen=True)
class Results:
    """Hold the tables of a study. `faults` has every fault of a run, and `checks` what was checked in numbers.

    `tolerance` is the loss of a fraction that the user accepts."""

    runs: pd.DataFrame
    cells: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    settings: pd.DataFrame
    missing: pd.DataFrame
    faults: pd.DataFrame
    configuration: Config | None
    tolerance: float
    checks: dict[str, object]


def compute(
    frames: Frames,
    options: Analysis,
    configuration: Config | None = None,
    measurements: Sequence[ThroughputRecord] = (),
) -> Results:
    """Return the tables of a study. Raises InputError if no training of any cell can be chosen."""
    runs = frames.runs.assign(measured_seconds=measured_seconds(frames.runs, measurements))
    cells = pool(Frames(runs, frames.examples, frames.faults))
    if not cells.frame["chosen"].any():
        first = cells.frame.iloc[0]
        raise InputError(
            f"no training of any cell can be chosen, for example {first.training} of {first.method} at"
            f" {first.sparsity} %, {first['mode']}: {first.obstacle}",
            "make the missing and faulty runs again",
        )
    # statsmodels collects garbage in every correction, which takes long with a whole study in memory.
    gc.freeze()
    if options.against is not None and options.against not in set(cells.frame["method"]) - {DENSE}:
        raise InputError(f"--against {options.against}: not a pruned method of the study", "name one of its methods")
    comparisons = compare_cells(cells, options.tolerance, options.compare, options.against)
    members = runs[runs["status"] != OUTSIDE]
    chosen = runs.join(cells.frame.set_index(KEYS)["chosen"], on=KEYS)["chosen"].fillna(False).astype(bool)
    return Results(
        runs=tables.complete(in_order(runs.assign(chosen=chosen & (runs["status"] != OUTSIDE))), tables.RUNS),
        cells=tables.complete(cells.frame, tables.CELLS),
        comparisons=comparisons,
        curves=tables.complete(curves(cells, comparisons), tables.CURVES),
        settings=tables.settings_table(in_order(runs)),
        missing=tables.missing_table(frames.faults),
        faults=frames.faults,
        configuration=configuration,
        tolerance=options.tolerance,
        checks={
            "date": members["date"].max(),
            "runs": len(members),
            "passed": int(members["passed"].sum()),
            "weights": int(members["weights"].sum()),
            "violations": int(members["violations"].sum()),
        },
    )


def write_tables(results: Results, folder: Path) -> None:
    """Write every table into a folder, as a .csv file."""
    for file, (name, columns) in FILES.items():
        tables.write_csv(tables.ordered(getattr(results, name), columns), folder / file)
    tables.write_csv(results.settings, folder / "settings.csv")
