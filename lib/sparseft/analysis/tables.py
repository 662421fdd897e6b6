"""Compute, order, describe and write the tables of a study.

One name stands for one thing, in one unit, in all tables, and they join on the columns of a cell (cells.KEYS). A column
that is a field of a record has that field's description, and docs/columns.yaml describes the others. Sparsities are in
percent of the prunable weights, shares are fractions, and losses are in nats per answer token."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparseft.analysis.cells import CELLS, KEYS, pool
from sparseft.analysis.comparisons import COMPARISONS, CURVES, compare_cells, curves
from sparseft.analysis.study import MEASURED, RUN, RUNS, Frames, in_order
from sparseft.axes.grid import DENSE
from sparseft.axes.tasks.metrics import PERPLEXITIES
from sparseft.common.errors import InputError
from sparseft.storage.atomic import atomic_file
from sparseft.study.config import Analysis, Config

# How summary.csv begins, by which the outputs of an analysis are known (storage/outputs.py).
KNOWN_BY = ",".join(RUN)
MISSING = ["study", "run_id", "left_out", "reason"]
FILES = {
    "summary.csv": ("runs", RUNS),
    "grouped_summary.csv": ("cells", CELLS),
    "comparisons.csv": ("comparisons", COMPARISONS),
    "sparsity_vs_performance.csv": ("curves", CURVES),
    "missing.csv": ("missing", MISSING),
}
INTEGERS = {"sparsity", "seed", "examples", "seeds", "peak_memory_bytes", "selection_examples", "trainings_tried"}
INTEGERS |= {"against_sparsity", "comparisons", "parameters", "parameters_left", "model_bytes"}
# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA = r"^([=+\-@\t\r\n])"


@dataclass(frozen=True)
class Results(Frames):
    """Hold a study with its tables. `options` say what the tables and pages judge by."""

    cells: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    settings: pd.DataFrame
    configuration: Config | None
    options: Analysis

    @property
    def missing(self) -> pd.DataFrame:
        """Return a row per run that lacks something, or that cannot be read."""
        rows = self.faults[self.faults["kind"].isin(["missing", "incomplete"])]
        groups = rows.groupby(["study", "run_id"], sort=False, as_index=False)
        return groups.agg(left_out=("kind", lambda kinds: "missing" in set(kinds)), reason=("text", " | ".join))


def compute(frames: Frames, options: Analysis, configuration: Config | None = None) -> Results:
    """Return the tables of a study. Raises InputError if no training of any cell can be chosen."""
    runs, cells = frames.runs, pool(frames)
    if not cells["chosen"].any():
        first = cells.iloc[0]
        raise InputError(
            f"no training of any cell can be chosen, for example {first.training} of {first.method} at"
            f" {first.sparsity} %, {first['mode']}: {first.obstacle}",
            "make the missing and faulty runs again",
        )
    # statsmodels collects garbage in every correction, which takes long with a whole study in memory.
    gc.freeze()
    if options.against is not None and options.against not in set(cells["method"]) - {DENSE}:
        raise InputError(f"--against {options.against}: not a pruned method of the study", "name one of its methods")
    comparisons = compare_cells(cells, options.tolerance, options.compare, options.against)
    runs = in_order(runs.join(cells.set_index(KEYS)["chosen"], on=KEYS))
    return Results(
        **vars(frames) | {"runs": runs},
        cells=cells,
        comparisons=comparisons,
        curves=curves(cells, comparisons),
        settings=settings_table(runs),
        configuration=configuration,
        options=options,
    )


def write_tables(results: Results, folder: Path) -> None:
    """Write every table into a folder, as a .csv file."""
    for file, (name, columns) in FILES.items():
        write_csv(ordered(getattr(results, name), columns, results.measured), folder / file)
    write_csv(results.settings, folder / "settings.csv")


def ordered(table: pd.DataFrame, names: list[str], measured: Sequence[str]) -> pd.DataFrame:
    """Return the columns of a table in their order; one that no run has is empty. Integers stay integers beside blanks.

    Those that depend on the study stand at MEASURED, with their intervals, the perplexities and probes at the end."""
    ends = [f"{name}{end}" for name in measured for end in ("", "_low", "_high")]
    known = [name for name in table if name in ends and table[name].notna().any()]
    known.sort(key=lambda name: (name.startswith("probe_"), name.startswith(PERPLEXITIES)))
    columns = [column for name in names for column in (known if name == MEASURED else [name])]
    return table.reindex(columns=columns).astype({name: "Int64" for name in columns if name in INTEGERS})


def settings_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run with its settings, the hashes of its files, and the versions that trained it."""
    rows = []
    for run in runs.itertuples():
        row = {
            ".".join(filter(None, key)): ", ".join(value) if isinstance(value, tuple) else value
            for key, value in run.settings.items()
        }
        row |= {f"sha256.{name}": digest for name, digest in run.digests.items()}
        rows.append(row | {f"version.{name}": version for name, version in run.versions.items()})
    # As objects, because an integer beside a blank would become a float.
    table = pd.DataFrame(rows, index=runs.index, dtype=object)
    return runs[RUN].join(table[sorted(table)].dropna(axis=1, how="all"))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table with ten significant digits. A field without a value is blank.

    A text that a spreadsheet would take for a formula begins with a single quote."""
    with atomic_file(path) as temporary:
        table.replace(_FORMULA, r"'\1", regex=True).to_csv(
            temporary, index=False, float_format="%.10g", lineterminator="\n"
        )
