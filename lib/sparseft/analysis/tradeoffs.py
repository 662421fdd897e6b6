"""Which points of the curves are worth having.

best_for_sparsity  no point of the model and task is as good in value and in sparsity and better in one of them
best_for_speed     the same of value and training speed, among the points that one device trained
largest_within     the largest sparsity of its curve up to which every point is within the tolerance. Tested in that
                   order, from the smallest sparsity up to the first that fails (or has a fault, or of which a run is
                   missing), the verdicts need no correction for their number (fixed-sequence procedure: Maurer, Hothorn
                   and Lehmacher 1995)

Sparsity is the one that the masks reached, not the one that was asked for: structured pruning removes whole channels. A
pruned point whose mask prunes nothing takes no part, nor does one with a run that has a fault. The first two are of means: a
point beside a best one may differ from it by chance alone.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sparseft.analysis.statistics import WITHIN
from sparseft.analysis.tables import CELL, LINE, PLAIN_LORA, tidy
from sparseft.grid import DENSE, NO_FINETUNE, Cell

BEST = ["best_for_sparsity", "best_for_speed", "largest_within"]
COLUMNS = [
    *CELL, "reached_sparsity", *BEST, "value", "difference_to_dense", "difference_low", "difference_high", "verdict", "samples_per_second",
    "device", "processes",
]  # fmt: skip


def tradeoffs(points: pd.DataFrame, missing: Iterable[Cell] = ()) -> pd.DataFrame:
    """Return a row per point that is best in some respect; `missing` are the cells that lack a run."""
    points = points[(points["sparsity"] == 0) | (points["reached_sparsity"] > 0)]
    points = points.assign(largest_within=_largest_within(points, missing))
    table = _mark(points[points["n_sound"] == points["n"]])
    return tidy(table[table[BEST].any(axis=1)], CELL)[COLUMNS]


def pareto(gains: np.ndarray) -> np.ndarray:
    """Return which rows of `gains`, (points, respects), no other row beats: as good in all and better in one. NaN never is."""
    as_good = (gains[None] >= gains[:, None]).all(axis=2)
    better = (gains[None] > gains[:, None]).any(axis=2)
    return ~(as_good & better).any(axis=1) & ~np.isnan(gains).any(axis=1)


def _mark(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points, the dense ones once, with the columns of the two fronts."""
    dense = points["sparsity"] == 0
    plain = dense & (points["mode"] != NO_FINETUNE)
    once = points.assign(
        method=points["method"].mask(dense, DENSE), mode=points["mode"].mask(plain, PLAIN_LORA)
    ).drop_duplicates(CELL)
    place = ["model", "task", "metric"]
    for name, gain, alike in [
        ("sparsity", "reached_sparsity", place),
        ("speed", "samples_per_second", [*place, "device", "processes"]),
    ]:
        best = pd.Series(False, once.index)
        for _, group in once.groupby(alike, sort=False):  # untrained points have no device and no speed
            best[group.index] = pareto(group[["value", gain]].to_numpy(float))
        once[f"best_for_{name}"] = best
    return once


def _largest_within(points: pd.DataFrame, missing: Iterable[Cell]) -> pd.Series:
    """Return which points are the largest sparsity of their curve up to which nothing fails and nothing is missing."""
    gaps: dict[tuple, int] = {}
    for cell in missing:
        curve = (cell.model, cell.task, cell.method, cell.mode)
        gaps[curve] = min(cell.sparsity, gaps.get(curve, cell.sparsity))
    found = pd.Series(False, points.index)
    for place, curve in points[points["sparsity"] > 0].sort_values("reached_sparsity").groupby(LINE, sort=False):
        model, task, _, method, mode = place
        first_gap = gaps.get((model, task, method, mode), np.inf)
        unbroken = curve[((curve["verdict"] == WITHIN) & (curve["sparsity"] < first_gap)).cummin()]
        found[unbroken.index[-1:]] = True
    return found
