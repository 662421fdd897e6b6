"""The tables that are derived from the runs: cells, points of curves, comparisons, best points, layers.

Each setting is worked on by itself (settings.by_setting): its runs are pooled and compared with no others. The first column of
every table names the setting; it is empty where all runs of a model and task agree.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Self

import pandas as pd

from sparseft.analysis import tables
from sparseft.analysis.comparisons import compare, correct, judge
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap
from sparseft.analysis.settings import by_setting
from sparseft.analysis.tradeoffs import tradeoffs
from sparseft.errors import InputError
from sparseft.study.grid import Cell, Run


@dataclass(frozen=True)
class Derived:
    """Hold the tables of a study."""

    cells: pd.DataFrame
    points: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    layers: pd.DataFrame

    def of(self, **keys: str) -> Self:
        """Return the rows that have these keys; a key that a table lacks does not count for it."""
        return Derived(**{field.name: _rows(getattr(self, field.name), keys) for field in fields(self)})


def derive(judged: list[Judged], tolerance: float, gaps: Iterable[Gap] = ()) -> Derived:
    """Return the tables of the runs that belong to the study; `gaps` names its missing runs. Raises ValueError if no run does."""
    members = {each.record.run: each for each in judged if each.outside is None}
    groups = by_setting(each.record for each in members.values())
    missing = _missing_cells(gaps)
    parts = {
        text: _derive_one([members[record.run] for record in group], tolerance, missing)
        for text, group in groups.items()
    }
    found = {field.name: _stacked(parts, field.name) for field in fields(Derived)}
    found["comparisons"] = correct(found["comparisons"])
    return Derived(**found)


def _derive_one(judged: list[Judged], tolerance: float, missing: set[Cell]) -> Derived:
    """Return the tables of the runs of one setting; the comparisons are not corrected for their number."""
    cells = tables.grouped(tables.summary(judged))
    comparisons = compare(judged)
    points = judge(tables.curves(cells), comparisons, tolerance)
    layers = tables.layer_sparsity(each.record for each in judged if not each.faults)
    return Derived(cells, points, comparisons, tradeoffs(points, missing), layers)


def _missing_cells(gaps: Iterable[Gap]) -> set[Cell]:
    """Return the cells that lack a run."""
    found = set()
    for gap in gaps:
        with suppress(InputError):  # a folder that is named as no run
            run = Run.parse(gap.run_id)
            if gap.left_out:
                found.add(Cell(run.model, run.task, run.method, run.sparsity, run.mode))
    return found


def _rows(table: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    for name, value in keys.items():
        if name in table:
            table = table[table[name] == value]
    return table


def _stacked(parts: dict[str, Derived], name: str) -> pd.DataFrame:
    """Return the tables of all settings as one, with the setting before the other columns."""
    found = []
    for text, part in parts.items():
        table = getattr(part, name).copy()
        table.insert(0, "setting", text)
        found.append(table)
    filled = [table for table in found if len(table)] or found[:1]
    return pd.concat(filled, ignore_index=True)
