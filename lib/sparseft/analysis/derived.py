"""The tables that are derived from the runs: cells, points of curves, comparisons, best points, layers.

Each setting is worked on by itself (settings.by_setting): its runs are pooled and compared with no others. The first column of
every table names the setting; it is empty where all runs of a model and task agree.
"""

from dataclasses import dataclass, fields
from typing import Self

import pandas as pd

from sparseft.analysis import tables
from sparseft.analysis.comparisons import compare, judge
from sparseft.analysis.judgement import Judged
from sparseft.analysis.settings import by_setting
from sparseft.analysis.tradeoffs import tradeoffs


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


def derive(judged: list[Judged], tolerance: float) -> Derived:
    """Return the tables of the runs that belong to the study. Raises ValueError if none does."""
    members = {each.record.run: each for each in judged if each.outside is None}
    groups = by_setting(each.record for each in members.values())
    parts = {text: _derive_one([members[record.run] for record in group], tolerance) for text, group in groups.items()}
    return Derived(**{field.name: _stacked(parts, field.name) for field in fields(Derived)})


def _derive_one(judged: list[Judged], tolerance: float) -> Derived:
    """Return the tables of the runs of one setting."""
    cells = tables.grouped(tables.summary(judged))
    comparisons = compare(judged)
    points = judge(tables.curves(cells), comparisons, tolerance)
    layers = tables.layer_sparsity(each.record for each in judged)
    return Derived(cells, points, comparisons, tradeoffs(points), layers)


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
