"""Find the points of the curves that are best in some respect.

best_for_sparsity  no other point of the model and task is as good in both value and sparsity, and better in one of them
best_for_speed     the same for value and training speed, among the points whose speeds can be compared (comparable_speeds)
largest_within     the largest sparsity of a curve up to which every point is within the tolerance. The points are tested from the
                   smallest sparsity up, to the first one that fails, has a fault or lacks a run. In this order the verdicts
                   need no correction for their number (fixed-sequence procedure: Maurer, Hothorn and Lehmacher 1995)

A lower loss is a better value. Sparsity is the one that the masks reached, because structured pruning removes whole channels.
Pruned points take no part if their mask prunes nothing or one of their runs has a fault. best_for_sparsity and best_for_speed
compare means, so a neighbour may differ by chance.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from sparseft.analysis.columns import TRADEOFFS
from sparseft.analysis.headlines import gains
from sparseft.analysis.statistics import WITHIN
from sparseft.analysis.tables import CELL, LINE, SPEED_CHOICES, in_order, tidy
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, Cell

# The points of one model and task compete.
PLACE = ["model", "task", "metric"]
BEST = ["best_for_sparsity", "best_for_speed", "largest_within"]
# What points must share if their speeds are compared. The runs of one setting already share the batch size of their kind.
_TRAINED_ALIKE = ["device", "processes", *SPEED_CHOICES, "reconstructs"]


def tradeoffs(points: pd.DataFrame, missing: Iterable[Cell] = ()) -> pd.DataFrame:
    """Return a row per point that is best in some respect; `missing` are the cells that lack a run."""
    points = points[(points["sparsity"] == 0) | (points["reached_sparsity"] > 0)]
    points = points.assign(largest_within=_largest_within(points, missing))
    table = _mark(points[points["n_sound"] == points["n"]])
    return in_order(tidy(table[table[BEST].any(axis=1)], CELL), TRADEOFFS)


def comparable_speeds(points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the points whose speeds can be compared, with the device and what else sets them apart from the others.

    These are points that one device trained in as many processes, with the same gradient_checkpointing and cache_weights. A step
    of a reconstruction is other work than a step on the task. Untrained points have no device and no speed, and are left out."""
    keyed = points.assign(reconstructs=points["mode"].map(lambda name: get_mode(name).reconstructs))
    differing = [name for name in _TRAINED_ALIKE[1:] if keyed[name].nunique() > 1]
    for key, rows in keyed.groupby(_TRAINED_ALIKE, sort=False):
        of_group = dict(zip(_TRAINED_ALIKE, key, strict=True))
        words = [_how_trained(name, of_group[name]) for name in differing]
        yield ", ".join([of_group["device"], *words]), points.loc[rows.index]


def speed_panels(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the points of each model whose speeds can be compared, with the title of their panel."""
    return [
        (f"{model} on {trained}", rows)
        for model, of_model in points.groupby("model", sort=False)
        for trained, rows in comparable_speeds(of_model)
    ]


def _how_trained(name: str, value: object) -> str:
    """Return in words what a column of _TRAINED_ALIKE says of a training."""
    if name == "processes":
        return f"{value} process{'' if value == 1 else 'es'}"
    if name == "reconstructs":
        return "reconstruction" if value else "training on the task"
    return f"{'with' if value else 'without'} {name}"


def pareto(gains: np.ndarray) -> np.ndarray:
    """Return which rows of `gains`, (points, respects), no other row beats. A row with NaN is never among them.

    One row beats another if it is as good in all columns and better in one."""
    as_good = (gains[None] >= gains[:, None]).all(axis=2)
    better = (gains[None] > gains[:, None]).any(axis=2)
    return ~(as_good & better).any(axis=1) & ~np.isnan(gains).any(axis=1)


def _mark(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with the columns of the two fronts. A dense point is there once, not once per curve."""
    dense = points["sparsity"] == 0
    method = points["method"].mask(dense, DENSE)
    mode = points["mode"].mask(dense, points["mode"].map(lambda name: get_mode(name).dense_mode))
    once = points.assign(method=method, mode=mode).drop_duplicates(CELL)
    once["value_gain"] = once["value"] * gains(once)
    for name in ("best_for_sparsity", "best_for_speed"):
        once[name] = False
    for _, place in once.groupby(PLACE, sort=False):
        _mark_front(once, "best_for_sparsity", place, "reached_sparsity")
        for _, members in comparable_speeds(place):
            _mark_front(once, "best_for_speed", members, "samples_per_second")
    return once.drop(columns="value_gain")


def _mark_front(points: pd.DataFrame, name: str, members: pd.DataFrame, respect: str) -> None:
    """Set the column `name` where no other of the `members` beats a point in value and in the column `respect`."""
    points.loc[members.index, name] = pareto(members[["value_gain", respect]].to_numpy(float))


def _largest_within(points: pd.DataFrame, missing: Iterable[Cell]) -> pd.Series:
    """Return which points are the largest sparsity of their curve up to which every point is within, and none is missing."""
    first_gaps = _first_gaps(missing)
    largest = pd.Series(False, points.index)
    for place, curve in points[points["sparsity"] > 0].sort_values("reached_sparsity").groupby(LINE, sort=False):
        model, task, _, method, mode = place
        first_gap = first_gaps.get((model, task, method, mode), np.inf)
        unbroken = curve[((curve["verdict"] == WITHIN) & (curve["sparsity"] < first_gap)).cummin()]
        largest[unbroken.index[-1:]] = True
    return largest


def _first_gaps(missing: Iterable[Cell]) -> dict[tuple[str, str, str, str], int]:
    """Return the smallest sparsity that lacks a run, by model, task, method and mode."""
    gaps: dict[tuple[str, str, str, str], int] = {}
    for cell in missing:
        curve = (cell.model, cell.task, cell.method, cell.mode)
        gaps[curve] = min(cell.sparsity, gaps.get(curve, cell.sparsity))
    return gaps
