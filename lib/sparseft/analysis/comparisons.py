"""Every comparison of two cells over the same examples, and what it says of the curves.

    dense     a pruned cell with the dense one that its curve starts from
    random    another method with random pruning
    untuned   a fine-tuned cell with the same model before its training
    modes     sparse_to_sparse with sparse_to_dense

The differences are between the two cells' outcomes and between their losses, each averaged over its seeds; their
intervals are over the examples and hold for these trained models: another seed moves them further. McNemar's test, and
Student's of the losses, compares two runs: of several seeds the p_value is the largest, so that a significant difference
is one in every seed. Holm's correction is over a family: all comparisons of one kind on one model and task, outcomes and
losses apart. Cells that were evaluated on other examples are not compared.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from sparseft.analysis.records import Record
from sparseft.analysis.statistics import (
    difference_intervals,
    holm,
    loss_intervals,
    mcnemar_p,
    paired_t_p,
    verdict,
)
from sparseft.analysis.tables import CELL, LINE, PLAIN_LORA, tidy
from sparseft.grid import DENSE, NO_FINETUNE, TRAINED_MODES, Cell

CONTROL = "random"  # the method that every other one is compared with
SIGNIFICANT = 0.05
COMPUTED = ("family_size", "p_holm", "significant")  # once the family is known
FAMILY = ["comparison", "model", "task", "metric"]
LOSS = "eval_loss_"  # before the names of what is said of the losses
TOLD = ["difference", "difference_low", "difference_high", "p_value"]
COLUMNS = [
    "comparison", *CELL, "against", "n", "examples", "family_size", *TOLD, "p_holm", "significant",
    *(f"{LOSS}{name}" for name in (*TOLD, "p_holm", "significant")),
]  # fmt: skip


def compare(records: Iterable[Record]) -> pd.DataFrame:
    """A row a comparison: kind by kind, in the order of the study."""
    cells: dict[Cell, list[Record]] = {}
    for record in records:
        name = {key: value for key, value in vars(record.run).items() if key != "seed"}
        cells.setdefault(Cell(**name), []).append(record)
    pairs = [
        (kind, cell, other)
        for cell, ours in cells.items()
        for kind, other in _others(cell).items()
        if other in cells and _same_examples([*ours, *cells[other]])
    ]
    intervals = _intervals([(cells[cell], cells[other]) for _, cell, other in pairs])
    rows = [
        {"comparison": kind, **vars(cell), "against": other.id, **_tests(cells[cell], cells[other]), **found}
        for (kind, cell, other), found in zip(pairs, intervals, strict=True)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name.removeprefix(LOSS) not in COMPUTED])
    for kind in ("", LOSS):
        families = table.groupby(FAMILY)[f"{kind}p_value"]
        table["family_size"], table[f"{kind}p_holm"] = families.transform("count"), families.transform(holm)
        one_side = (table[f"{kind}difference_low"] > 0) | (table[f"{kind}difference_high"] < 0)
        table[f"{kind}significant"] = (table[f"{kind}p_holm"] < SIGNIFICANT) & one_side
    return tidy(table, ["comparison", "model", "task", "method", "sparsity", "mode"])[COLUMNS]


def judge(points: pd.DataFrame, comparisons: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """The points of the curves with the intervals of their differences to dense and the verdict on the value's; where the
    examples were others than the dense runs', neither difference nor share is left."""
    place = [*LINE, "sparsity"]
    ends = ["difference_low", "difference_high"]
    told = [*ends, *(f"{LOSS}{name}" for name in ("difference", *ends))]
    to_dense = comparisons[comparisons["comparison"] == "dense"].set_index(place)[told]
    points = points.drop(columns=told).join(to_dense, on=place)[list(points)]
    unknown = points["difference_low"].isna() & (points["sparsity"] > 0)
    points[["difference_to_dense", "recovered_share"]] = points[["difference_to_dense", "recovered_share"]].mask(
        unknown
    )
    points["verdict"] = [verdict(*interval, tolerance) for interval in points[ends].itertuples(index=False)]
    sound = points["n_sound"] == points["n"]
    unsound = points[~sound & (points["sparsity"] == 0)].set_index(LINE).index  # curves whose dense runs are not
    points["verdict"] = points["verdict"].where(sound & ~points.set_index(LINE).index.isin(unsound))
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
    results = [record.evaluation for record in records]
    seen = {(each.metric, each.examples, each.inputs.data, each.answer_tokens.tobytes()) for each in results}
    return len(seen) == 1


def _tests(ours: list[Record], theirs: list[Record]) -> dict:
    """Of the pairs of runs the weakest."""
    seeds = {record.run.seed: record.evaluation for record in theirs}
    if theirs[0].run.mode == NO_FINETUNE:  # the same model whatever the seed
        seeds = {record.run.seed: theirs[0].evaluation for record in ours}
    pairs = [(record.evaluation, seeds[record.run.seed]) for record in ours if record.run.seed in seeds]
    pairs = pairs if len(pairs) == len(ours) else []  # of some seeds it would not be one in every seed
    losses = np.array([mine.losses - other.losses for mine, other in pairs])
    return {
        "metric": ours[0].evaluation.metric,
        "n": len(pairs),
        "examples": ours[0].evaluation.examples,
        "p_value": max((mcnemar_p(mine.outcomes, other.outcomes) for mine, other in pairs), default=np.nan),
        f"{LOSS}p_value": paired_t_p(losses).max() if pairs else np.nan,
    }


def _intervals(pairs: list[tuple[list[Record], list[Record]]]) -> list[dict]:
    """The differences with their intervals; those over the same examples at once, which spares drawing them again."""
    alike: dict[bytes, list[int]] = {}
    for place, (ours, _) in enumerate(pairs):
        alike.setdefault(ours[0].evaluation.answer_tokens.tobytes(), []).append(place)
    found: list[dict] = [{} for _ in pairs]
    for places in alike.values():
        tokens = pairs[places[0]][0][0].evaluation.answer_tokens
        values, losses = (
            np.array([np.subtract(*(_over_seeds(some, name) for some in pairs[place])) for place in places])
            for name in ("outcomes", "losses")
        )
        told = {
            "": (values.mean(axis=-1), *difference_intervals(values)),
            LOSS: (losses.sum(axis=-1) / tokens.sum(), *loss_intervals(losses, tokens)),
        }
        for kind, columns in told.items():
            for place, row in zip(places, zip(*columns, strict=True), strict=True):
                found[place] |= {f"{kind}{name}": number for name, number in zip(TOLD, row, strict=False)}
    return found


def _over_seeds(records: list[Record], name: str) -> np.ndarray:
    return np.mean([getattr(record.evaluation, name) for record in records], axis=0)
