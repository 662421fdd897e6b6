"""Compare pairs of cells over the same examples, and judge the curves by it.

    dense     a pruned cell with the dense one that its curve starts from
    random    another method with random pruning
    untuned   a fine-tuned cell with the same model before its training
    modes     sparse_to_sparse with sparse_to_dense

A difference is between the two cells' outcomes, or between their losses, each averaged over the seeds. Its interval (low, high)
is over the examples and holds for these trained models. With two pairs of seeds or more, seeds_low and seeds_high are the ends
of Student's interval over the pairs.

McNemar's test compares the outcomes of two runs, and Student's paired test their losses. With several seeds the p_value is the
largest one, and a difference is significant only if it has the same sign in every seed. Holm's correction is over a family: all
comparisons of one kind on one model and task, in all settings. Outcomes and losses are two families.

A cell is not compared if it has a fault, if the other cell was evaluated on other examples, or if its examples repeat one
another, because the tests assume independent examples.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import sem

from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Record
from sparseft.analysis.statistics import (
    difference_intervals,
    holm,
    loss_intervals,
    mcnemar_p,
    paired_t_p,
    t_interval,
    verdict,
)
from sparseft.analysis.tables import CELL, LINE, PLAIN_LORA, POINT, tidy
from sparseft.study.grid import DENSE, NO_FINETUNE, TRAINED_MODES, Cell

CONTROL = "random"  # the method that every other one is compared with
SIGNIFICANT = 0.05
COMPUTED = ("family_size", "p_holm", "significant")  # these need the whole family
FAMILY = ["comparison", "model", "task", "metric"]
LOSS = "eval_loss_"  # begins the names of the columns about losses
REPEATED = 0.1  # the share of validation prompts that repeat another, above which a cell is not compared
STATISTICS = [
    "difference", "difference_low", "difference_high", "difference_seeds_low", "difference_seeds_high", "one_sign", "p_value",
]  # fmt: skip
COLUMNS = [
    "comparison", *CELL, "against", "reached_sparsity", "against_reached_sparsity", "n", "examples", "family_size", *STATISTICS,
    "p_holm", "significant", *(f"{LOSS}{name}" for name in (*STATISTICS, "p_holm", "significant")),
]  # fmt: skip


def compare(judged: Iterable[Judged]) -> pd.DataFrame:
    """Return a row per comparison of the runs of one setting, without the correction for their number."""
    cells = _sound_cells(judged)
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
    return pd.DataFrame(rows, columns=[name for name in COLUMNS if name.removeprefix(LOSS) not in COMPUTED])


def correct(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons of all settings, in the order of the study, with Holm's correction and what is significant."""
    table = table.copy()
    for kind in ("", LOSS):
        families = table.groupby(FAMILY)[f"{kind}p_value"]
        table["family_size"], table[f"{kind}p_holm"] = families.transform("count"), families.transform(holm)
        without_0 = (table[f"{kind}difference_low"] > 0) | (table[f"{kind}difference_high"] < 0)
        small = table[f"{kind}p_holm"] < SIGNIFICANT
        table[f"{kind}significant"] = small & without_0 & table[f"{kind}one_sign"].astype(bool)
    setting = [name for name in ("setting",) if name in table]
    return tidy(table, [*setting, "comparison", "model", "task", "method", "sparsity", "mode"])[[*setting, *COLUMNS]]


def _sound_cells(judged: Iterable[Judged]) -> dict[Cell, list[Record]]:
    """Return the distinct models of each cell, without cells that have a fault or examples that repeat one another."""
    models: dict[Cell, dict[str, Record]] = {}
    faulty = set()
    for each in judged:
        run = each.record.run
        cell = Cell(**{key: value for key, value in vars(run).items() if key != "seed"})
        models.setdefault(cell, {}).setdefault(each.record.validation.merged_digest, each.record)
        if each.faults or each.record.evaluation.repeated_prompts > REPEATED:
            faulty.add(cell)
    return {cell: list(found.values()) for cell, found in models.items() if cell not in faulty}


def judge(points: pd.DataFrame, comparisons: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Return the points with the intervals of their differences to dense, and with the verdict on the value.

    An interval covers the one over the examples and the one over the seeds. There is no interval and no verdict without a pair
    for every seed. A point that could not be compared has no difference and no recovered share either. A point has no verdict if
    its dense model scores no better than guessing, because that model has nothing to lose."""
    place = [*LINE, "sparsity"]
    to_dense = _differences_to_dense(comparisons, place)
    points = points.drop(columns=[name for name in to_dense if name in points]).join(to_dense, on=place)
    compared = points.pop("n_pairs")
    points = points[[*place, *POINT]]
    unknown = compared.isna() & (points["sparsity"] > 0)
    alone = ["difference_to_dense", "recovered_share"]
    points[alone] = points[alone].mask(unknown)
    ends = points[["difference_low", "difference_high"]].itertuples(index=False)
    points["verdict"] = [verdict(*interval, tolerance) for interval in ends]
    start = points[points["sparsity"] == 0]
    guess = start[["chance", "majority_floor"]].astype(float).max(axis=1)
    no_base = start[(start["n_sound"] < start["n"]) | (start["value_low"] <= guess)].set_index(LINE).index
    judged = (points["n_sound"] == points["n"]) & ~points.set_index(LINE).index.isin(no_base)
    points["verdict"] = points["verdict"].where(judged)
    return points


def _differences_to_dense(comparisons: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """Return for each point the difference of losses, the intervals of both differences, and their number of pairs."""
    table = comparisons[comparisons["comparison"] == "dense"].set_index(place)
    found = pd.DataFrame({"n_pairs": table["n"], f"{LOSS}difference": table[f"{LOSS}difference"]})
    for kind in ("", LOSS):
        for end, reach in (("low", "min"), ("high", "max")):
            both = table[[f"{kind}difference_{end}", f"{kind}difference_seeds_{end}"]].astype(float)
            found[f"{kind}difference_{end}"] = both.agg(reach, axis=1).where(table["n"] > 0)
    return found


def _others(cell: Cell) -> dict[str, Cell]:
    """Return what a cell is compared with, by kind."""
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
    """Return whether all runs were evaluated on the same examples, with the same metric."""
    results = [record.evaluation for record in records]
    seen = {(each.metric, each.examples, each.inputs.data, each.answer_tokens.tobytes()) for each in results}
    return len(seen) == 1


def _tests(ours: list[Record], theirs: list[Record]) -> dict:
    """Return the largest p-values over the pairs of seeds, and whether all pairs differ in one direction."""
    seeds = {record.run.seed: record.evaluation for record in theirs}
    if theirs[0].run.mode == NO_FINETUNE:  # the same model whatever the seed
        seeds = {record.run.seed: theirs[0].evaluation for record in ours}
    pairs = [(record.evaluation, seeds[record.run.seed]) for record in ours if record.run.seed in seeds]
    if len(pairs) < len(ours):
        pairs = []  # the difference must be tested in every seed
    values = np.array([mine.outcomes - other.outcomes for mine, other in pairs])
    losses = np.array([mine.losses - other.losses for mine, other in pairs])
    return {
        "metric": ours[0].evaluation.metric,
        "reached_sparsity": _reached(ours),
        "against_reached_sparsity": _reached(theirs),
        "n": len(pairs),
        "examples": ours[0].evaluation.examples,
        **_over_seeds_interval("", values.mean(axis=-1) if pairs else np.array([])),
        "one_sign": _one_sign(values),
        "p_value": max((mcnemar_p(mine.outcomes, other.outcomes) for mine, other in pairs), default=np.nan),
        **_over_seeds_interval(LOSS, losses.sum(axis=-1) / ours[0].evaluation.answer_tokens.sum() if pairs else losses),
        f"{LOSS}one_sign": _one_sign(losses),
        f"{LOSS}p_value": paired_t_p(losses).max() if pairs else np.nan,
    }


def _over_seeds_interval(kind: str, differences: np.ndarray) -> dict[str, float]:
    """Return the ends of Student's interval of the mean difference over the pairs of seeds; NaN for fewer than two."""
    low = high = np.nan
    if len(differences) > 1:
        low, high = t_interval(differences.mean(), sem(differences), len(differences))
    return {f"{kind}difference_seeds_low": float(low), f"{kind}difference_seeds_high": float(high)}


def _reached(records: list[Record]) -> float:
    """Return the mean share of the prunable weights that the masks prune."""
    return float(np.mean([record.validation.expected_sparsity for record in records]))


def _one_sign(differences: np.ndarray) -> bool:
    """Return whether the differences, (pairs, examples), sum up to the same sign in every pair; False without a pair."""
    sums = differences.sum(axis=-1)
    return bool(sums.size) and bool((sums > 0).all() or (sums < 0).all())


def _intervals(pairs: list[tuple[list[Record], list[Record]]]) -> list[dict]:
    """Return the differences with their intervals. Pairs over the same examples share one drawing of the bootstrap."""
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
            for place, (mean, low, high) in zip(places, zip(*columns, strict=True), strict=True):
                found[place] |= {
                    f"{kind}difference": mean,
                    f"{kind}difference_low": low,
                    f"{kind}difference_high": high,
                }
    return found


def _over_seeds(records: list[Record], name: str) -> np.ndarray:
    """Return the mean of the outcomes or losses over the seeds, by example."""
    return np.mean([getattr(record.evaluation, name) for record in records], axis=0)
