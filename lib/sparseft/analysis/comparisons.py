"""Every comparison of two cells over the same examples, and what it says of the curves.

    dense     a pruned cell with the dense one that its curve starts from
    random    another method with random pruning
    untuned   a fine-tuned cell with the same model before its training
    modes     sparse_to_sparse with sparse_to_dense

The difference is between the two cells' outcomes, each averaged over its seeds; its interval is over the examples and
holds for these trained models: another seed moves it further. McNemar's test compares two runs: of several seeds the
p_value is the largest, so that a significant difference is one in every seed. Holm's correction is over a family: all
comparisons of one kind on one model and task. Cells that were evaluated on other examples are not compared.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from sparseft.analysis.records import Record
from sparseft.analysis.statistics import difference_interval, holm, mcnemar_p, verdict
from sparseft.analysis.tables import CELL, LINE, PLAIN_LORA, tidy
from sparseft.grid import DENSE, NO_FINETUNE, TRAINED_MODES, Cell

CONTROL = "random"  # the method that every other one is compared with
SIGNIFICANT = 0.05
FAMILY = ["comparison", "model", "task", "metric"]
COLUMNS = [
    "comparison", *CELL, "against", "n", "examples", "difference", "difference_low", "difference_high", "p_value",
    "family_size", "p_holm", "significant",
]  # fmt: skip


def compare(records: Iterable[Record]) -> pd.DataFrame:
    """A row a comparison: kind by kind, in the order of the study."""
    cells: dict[Cell, list[Record]] = {}
    for record in records:
        name = {key: value for key, value in vars(record.run).items() if key != "seed"}
        cells.setdefault(Cell(**name), []).append(record)
    rows = [
        {"comparison": kind, **vars(cell), "against": other.id, **_difference(ours, cells[other])}
        for cell, ours in cells.items()
        for kind, other in _others(cell).items()
        if other in cells and _same_examples([*ours, *cells[other]])
    ]
    table = pd.DataFrame(
        rows, columns=[name for name in COLUMNS if name not in ("family_size", "p_holm", "significant")]
    )
    families = table.groupby(FAMILY)["p_value"]
    table["family_size"], table["p_holm"] = families.transform("count"), families.transform(holm)
    one_side = (table["difference_low"] > 0) | (table["difference_high"] < 0)
    table["significant"] = (table["p_holm"] < SIGNIFICANT) & one_side
    return tidy(table, ["comparison", "model", "task", "method", "sparsity", "mode"])[COLUMNS]


def judge(points: pd.DataFrame, comparisons: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """The points of the curves with the interval of their difference to dense and the verdict on it; where the examples
    were others than the dense runs', neither difference nor share is left."""
    place = [*LINE, "sparsity"]
    ends = ["difference_low", "difference_high"]
    to_dense = comparisons[comparisons["comparison"] == "dense"].set_index(place)[ends]
    points = points.drop(columns=ends).join(to_dense, on=place)[list(points)]
    unknown = points["difference_low"].isna() & (points["sparsity"] > 0)
    points[["difference_to_dense", "recovered_share"]] = points[["difference_to_dense", "recovered_share"]].mask(
        unknown
    )
    points["verdict"] = [verdict(*interval, tolerance) for interval in points[ends].itertuples(index=False)]
    points["verdict"] = points["verdict"].where(points["n_validated"] == points["n"])
    return points


def _others(cell: Cell) -> dict[str, Cell]:
    """What a cell is compared with, by kind."""
    found = {}
    if cell.method != DENSE:
        mode = NO_FINETUNE if cell.mode == NO_FINETUNE else PLAIN_LORA
        found["dense"] = replace(cell, method=DENSE, sparsity=0, mode=mode)
    if cell.method not in (DENSE, CONTROL):
        found["random"] = replace(cell, method=CONTROL)
    if cell.mode != NO_FINETUNE:
        found["untuned"] = replace(cell, mode=NO_FINETUNE)
    if cell.mode == TRAINED_MODES[1]:
        found["modes"] = replace(cell, mode=TRAINED_MODES[0])
    return found


def _same_examples(records: list[Record]) -> bool:
    seen = {(each.evaluation.metric, each.evaluation.examples, each.evaluation.inputs.data) for each in records}
    return len(seen) == 1


def _difference(ours: list[Record], theirs: list[Record]) -> dict:
    seeds = {record.run.seed: record.evaluation.outcomes for record in theirs}
    if theirs[0].run.mode == NO_FINETUNE:  # the same model whatever the seed
        seeds = {record.run.seed: theirs[0].evaluation.outcomes for record in ours}
    tests = [mcnemar_p(record.evaluation.outcomes, seeds[record.run.seed])
             for record in ours if record.run.seed in seeds]  # fmt: skip
    mine, other = (np.mean([record.evaluation.outcomes for record in some], axis=0) for some in (ours, theirs))
    low, high = difference_interval(mine - other)
    return {
        "metric": ours[0].evaluation.metric,
        "n": len(tests),
        "examples": mine.size,
        "difference": (mine - other).mean(),
        "difference_low": low,
        "difference_high": high,
        "p_value": max(tests, default=np.nan),
    }
