"""Compute the interval of recovered_share, the part of what pruning lost that fine-tuning won back.

    recovered_share = sum(tuned - untuned) / sum(dense - untuned), over the examples

Its interval is Fieller's (JRSS B 16, 1954) over the examples, and holds for these trained models. It holds all shares s for which
Student's t test of (tuned - untuned) - s (dense - untuned) does not reject a mean of 0. It is bounded only if dense and untuned
differ significantly. Otherwise any share is possible, and there is no interval. To the outcomes three examples are added, one
for each model that only this model has right, as statistics.py does for two models. They change no sum.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from sparseft.analysis.columns import CURVES
from sparseft.analysis.comparisons import CellScores, cell_scores, sound_models
from sparseft.analysis.judgement import Judged
from sparseft.analysis.statistics import ratio_interval
from sparseft.analysis.tables import CELL, in_order
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, NO_FINETUNE, Cell

_ENDS = ["recovered_share_low", "recovered_share_high"]
# Differences to the untuned model of three examples: only tuned is right, only dense is right, only untuned is right.
_ADDED_TUNED = [1, 0, -1]
_ADDED_DENSE = [0, 1, -1]


def with_recovered_intervals(points: pd.DataFrame, judged: Iterable[Judged]) -> pd.DataFrame:
    """Return the points of the curves with the ends of the intervals of recovered_share. NaN means that there is none."""
    models = sound_models(judged)
    scores = {cell: found for cell, records in models.items() if (found := cell_scores(cell, records, None))}
    rows = [
        {**vars(cell), "metric": tuned.first.metric, **dict(zip(_ENDS, _interval(*three), strict=True))}
        for cell, tuned in scores.items()
        if (three := _three(cell, scores))
    ]
    ends = pd.DataFrame(rows, columns=[*CELL, *_ENDS]).set_index(CELL).astype(float)
    points = points.join(ends, on=CELL)
    points[_ENDS] = points[_ENDS].where(points["recovered_share"].notna())
    return in_order(points, CURVES)


def _three(cell: Cell, scores: dict[Cell, CellScores]) -> tuple[CellScores, CellScores, CellScores] | None:
    """Return the scores of a trained pruned cell, of the untuned and of the dense tuned one; None if the share needs others."""
    if cell.mode == NO_FINETUNE or cell.method == DENSE:
        return None
    dense = replace(cell, method=DENSE, sparsity=0, mode=get_mode(cell.mode).dense_mode)
    cells = [cell, replace(cell, mode=NO_FINETUNE), dense]
    three = tuple(scores[other] for other in cells if other in scores)
    identities = {run.identity for one in three for run in one.by_seed.values()}
    return three if len(three) == 3 and len(identities) == 1 else None


def _interval(tuned: CellScores, untuned: CellScores, dense: CellScores) -> tuple[float, float]:
    """Return the ends of the interval of the share."""
    if tuned.first.outcomes is None:
        start = untuned.mean("losses")
        return ratio_interval(tuned.mean("losses") - start, dense.mean("losses") - start)
    start = untuned.mean("outcomes")
    return ratio_interval(
        np.append(tuned.mean("outcomes") - start, _ADDED_TUNED),
        np.append(dense.mean("outcomes") - start, _ADDED_DENSE),
    )
