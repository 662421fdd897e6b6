"""Derive tables from the runs: cells, points of curves, comparisons, best points, layers, budgets.

Each setting is worked on by itself (settings.by_setting): its runs are pooled and compared with no others. The first column of
every table names the setting. It is empty if all runs of a model and task agree. Before anything is computed, the best training
of each cell is chosen (tuning.py). Only `runs` and `budget` have the others.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Self

import pandas as pd

from sparseft.analysis.budget import budget
from sparseft.analysis.columns import GROUPED, SUMMARY
from sparseft.analysis.comparisons import compare, correct, judge
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap, ThroughputRecord
from sparseft.analysis.recovery import with_recovered_intervals
from sparseft.analysis.settings import by_setting
from sparseft.analysis.tables import curves, grouped, in_order, layer_sparsity, summary
from sparseft.analysis.tradeoffs import tradeoffs
from sparseft.analysis.tuning import TunedCell, cell_of, chosen_runs, tune, with_trainings
from sparseft.errors import InputError
from sparseft.study.grid import Cell, Run

# The tables that are made for each setting from its chosen runs.
PARTS = ("cells", "points", "comparisons", "best", "layers")


@dataclass(frozen=True)
class Derived:
    """Hold the tables of a study. Only `runs` has the runs that do not belong to it."""

    runs: pd.DataFrame
    cells: pd.DataFrame
    points: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    layers: pd.DataFrame
    budget: pd.DataFrame

    def of(self, **keys: str) -> Self:
        """Return the rows that have these values in these columns. A table without a column keeps all its rows."""
        return Derived(**{field.name: _rows(getattr(self, field.name), keys) for field in fields(self)})


def derive(
    judged: list[Judged],
    tolerance: float,
    gaps: Iterable[Gap] = (),
    *,
    trainings: Sequence[str] = (),
    measurements: Iterable[ThroughputRecord] = (),
) -> Derived:
    """Return the tables of the runs. Raises InputError if no training of any cell can be chosen.

    `gaps` names the missing runs, `trainings` is the order of the configuration, and `measurements` are those of the stage
    `throughput`."""
    members = {run.record.run: run for run in judged if run.in_study}
    gaps = list(gaps)
    measurements = list(measurements)
    groups = {
        setting: [members[record.run] for record in group]
        for setting, group in by_setting(run.record for run in members.values()).items()
    }
    tuned = {setting: tune(group, gaps, trainings) for setting, group in groups.items()}
    reported = {setting: chosen_runs(group, tuned[setting]) for setting, group in groups.items()}
    if not any(reported.values()):
        cell = next(cell for cells in tuned.values() for cell in cells)
        trial = cell.trials[0]
        raise InputError(
            f"no training of any cell can be chosen, for example {trial.training} of {cell.cell.id}: {trial.obstacle}",
            "make the missing and faulty runs again",
        )
    runs = summary(judged)
    if any(cell.trials[0].training or len(cell.trials) > 1 for cells in tuned.values() for cell in cells):
        names = {run.record.run.id for group in reported.values() for run in group}
        runs = in_order(runs.assign(chosen=runs["run_id"].isin(names)), SUMMARY)
    parts = {}
    for setting, group in reported.items():
        if group:
            rows = runs[runs["run_id"].isin([run.record.run.id for run in group])]
            missing = _missing_cells(gaps, tuned[setting])
            parts[setting] = _derive_one(rows, group, tolerance, missing, tuned[setting])
    stacked = {name: _stacked({setting: part[name] for setting, part in parts.items()}) for name in PARTS}
    budgets = {setting: budget(cells, members.values(), measurements) for setting, cells in tuned.items()}
    return Derived(
        runs=runs,
        **stacked | {"comparisons": correct(stacked["comparisons"])},
        budget=_stacked(budgets),
    )


def _derive_one(
    runs: pd.DataFrame, judged: list[Judged], tolerance: float, missing: set[Cell], tuned: list[TunedCell]
) -> dict[str, pd.DataFrame]:
    """Return the tables of the chosen runs of one setting by name; the comparisons are not corrected for their number.

    `runs` and `judged` are the same runs, as rows and as records."""
    cells = in_order(with_trainings(grouped(runs), tuned), GROUPED)
    comparisons = compare(judged, tuned)
    points = with_recovered_intervals(judge(curves(cells), comparisons, tolerance), judged)
    return {
        "cells": cells,
        "points": points,
        "comparisons": comparisons,
        "best": tradeoffs(points, missing),
        "layers": layer_sparsity(run.record for run in judged if not run.faults),
    }


def _missing_cells(gaps: Iterable[Gap], tuned: Iterable[TunedCell]) -> set[Cell]:
    """Return the cells that lack a run, or of which no training can be chosen.

    A cell with a choice lacks none, because only a complete training can be chosen."""
    tuned = list(tuned)
    complete = {cell.cell for cell in tuned if len(cell.trials) > 1 and cell.chosen}
    unable = {cell.cell for cell in tuned if not cell.chosen}
    cells = set()
    for gap in gaps:
        # The name of a gap's folder may be no run's.
        with suppress(InputError):
            run = Run.parse(gap.run_id)
            if gap.left_out:
                cells.add(cell_of(run))
    return (cells - complete) | unable


def _rows(table: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    """Return the rows that have these values in these columns, as far as the table has them."""
    for name, value in keys.items():
        if name in table:
            table = table[table[name] == value]
    return table


def _stacked(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table of all settings, with the setting before the other columns."""
    tables = []
    for setting, part in parts.items():
        table = part.copy()
        table.insert(0, "setting", setting)
        tables.append(table)
    # An empty table has no types, and would change those of the others.
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True)
