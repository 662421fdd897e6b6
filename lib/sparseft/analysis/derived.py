"""Derive tables from the runs: cells, points of curves, comparisons, best points, layers.

Each setting is worked on by itself (settings.by_setting): its runs are pooled and compared with no others. The first column of
every table names the setting. It is empty if all runs of a model and task agree.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Self

import pandas as pd

from sparseft.analysis.comparisons import cell_of, compare, correct, judge
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap
from sparseft.analysis.recovery import with_recovered_intervals
from sparseft.analysis.settings import by_setting
from sparseft.analysis.tables import curves, grouped, layer_sparsity, summary
from sparseft.analysis.tradeoffs import tradeoffs
from sparseft.errors import InputError
from sparseft.study.grid import Cell, Run


@dataclass(frozen=True)
class Derived:
    """Hold the tables of a study. Only `runs` has the runs that do not belong to it."""

    runs: pd.DataFrame
    cells: pd.DataFrame
    points: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    layers: pd.DataFrame

    def of(self, **keys: str) -> Self:
        """Return the rows that have these values in these columns. A table without a column keeps all its rows."""
        return Derived(**{field.name: _rows(getattr(self, field.name), keys) for field in fields(self)})


def derive(judged: list[Judged], tolerance: float, gaps: Iterable[Gap] = ()) -> Derived:
    """Return the tables of the runs; `gaps` names the missing runs. Raises ValueError if no run belongs to the study."""
    members = {run.record.run: run for run in judged if run.in_study}
    missing = _missing_cells(gaps)
    groups = by_setting(run.record for run in members.values())
    runs = summary(judged)
    parts: dict[str, Derived] = {}
    for setting, group in groups.items():
        rows = runs[runs["run_id"].isin([record.run.id for record in group])]
        parts[setting] = _derive_one(rows, [members[record.run] for record in group], tolerance, missing)
    return Derived(
        runs=runs,
        cells=_stacked(parts, "cells"),
        points=_stacked(parts, "points"),
        comparisons=correct(_stacked(parts, "comparisons")),
        best=_stacked(parts, "best"),
        layers=_stacked(parts, "layers"),
    )


def _derive_one(runs: pd.DataFrame, judged: list[Judged], tolerance: float, missing: set[Cell]) -> Derived:
    """Return the tables of the runs of one setting; the comparisons are not corrected for their number.

    `runs` and `judged` are the same runs, as rows and as records."""
    cells = grouped(runs)
    comparisons = compare(judged)
    points = with_recovered_intervals(judge(curves(cells), comparisons, tolerance), judged)
    layers = layer_sparsity(run.record for run in judged if not run.faults)
    return Derived(runs, cells, points, comparisons, tradeoffs(points, missing), layers)


def _missing_cells(gaps: Iterable[Gap]) -> set[Cell]:
    """Return the cells that lack a run."""
    cells = set()
    for gap in gaps:
        # The name of a gap's folder may be no run's.
        with suppress(InputError):
            run = Run.parse(gap.run_id)
            if gap.left_out:
                cells.add(cell_of(run))
    return cells


def _rows(table: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    """Return the rows that have these values in these columns, as far as the table has them."""
    for name, value in keys.items():
        if name in table:
            table = table[table[name] == value]
    return table


def _stacked(parts: dict[str, Derived], name: str) -> pd.DataFrame:
    """Return one table of all settings, with the setting before the other columns."""
    tables = []
    for setting, part in parts.items():
        table = getattr(part, name).copy()
        table.insert(0, "setting", setting)
        tables.append(table)
    # An empty table has no types, and would change those of the others.
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True)
