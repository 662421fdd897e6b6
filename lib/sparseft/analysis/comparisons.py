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

from sparseft.analysis.columns import COMPARISONS, CURVES
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import EvaluationRecord, Record
from sparseft.analysis.statistics import (
    difference_intervals,
    holm,
    loss_intervals,
    mcnemar_p,
    paired_t_p,
    t_interval,
    verdict,
)
from sparseft.analysis.tables import LINE, PLAIN_LORA, in_order, tidy
from sparseft.study.grid import DENSE, NO_FINETUNE, TRAINED_MODES, Cell

# The method that every other one is compared with.
CONTROL = "random"
SIGNIFICANT = 0.05
FAMILY = ["comparison", "model", "task", "metric"]
# The names of the columns about losses begin with this.
LOSS = "eval_loss_"
# A cell is not compared if a larger share of its validation prompts repeat another.
REPEATED = 0.1
# These columns need the whole family.
CORRECTED = ("family_size", "p_holm", "significant", f"{LOSS}p_holm", f"{LOSS}significant")
# There is one column of each of these about values, and one about losses.
STATISTICS = (
    "difference",
    "difference_low",
    "difference_high",
    "difference_seeds_low",
    "difference_seeds_high",
    "one_sign",
    "p_value",
)


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
        {"comparison": kind, **vars(cell), "against": other.id, **_tests(cells[cell], cells[other]), **ends}
        for (kind, cell, other), ends in zip(pairs, intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=[name for name in COMPARISONS.names if name not in ("setting", *CORRECTED)])


def correct(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons of all settings, in the order of the study, with Holm's correction and what is significant."""
    table = table.copy()
    for kind in ("", LOSS):
        families = table.groupby(FAMILY)[f"{kind}p_value"]
        table["family_size"] = families.transform("count")
        table[f"{kind}p_holm"] = families.transform(holm)
        without_0 = (table[f"{kind}difference_low"] > 0) | (table[f"{kind}difference_high"] < 0)
        small = table[f"{kind}p_holm"] < SIGNIFICANT
        table[f"{kind}significant"] = small & without_0 & table[f"{kind}one_sign"].astype(bool)
    keys = ["setting", "comparison", "model", "task", "method", "sparsity", "mode"]
    return in_order(tidy(table, [key for key in keys if key in table]), COMPARISONS)


def _sound_cells(judged: Iterable[Judged]) -> dict[Cell, list[Record]]:
    """Return the distinct models of each cell, without cells that have a fault or examples that repeat one another."""
    models: dict[Cell, dict[str | None, Record]] = {}
    excluded = set()
    for run in judged:
        record = run.record
        cell = Cell(**{key: value for key, value in vars(record.run).items() if key != "seed"})
        models.setdefault(cell, {}).setdefault(record.validation.merged_digest, record)
        if run.faults or record.evaluation.repeated_prompts > REPEATED:
            excluded.add(cell)
    return {cell: list(records.values()) for cell, records in models.items() if cell not in excluded}


def judge(points: pd.DataFrame, comparisons: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Return the points with the intervals of their differences to dense, and with the verdict on the value.

    An interval covers the one over the examples and the one over the seeds. There is no interval and no verdict without a pair
    for every seed. A point that could not be compared has no difference and no recovered share either. A point has no verdict if
    its dense model scores no better than guessing, because that model has nothing to lose."""
    place = [*LINE, "sparsity"]
    points = points.join(_differences_to_dense(comparisons, place), on=place)
    not_compared = points.pop("n_pairs").isna() & (points["sparsity"] > 0)
    need_dense = ["difference_to_dense", "recovered_share"]
    points[need_dense] = points[need_dense].mask(not_compared)
    ends = points[["difference_low", "difference_high"]].itertuples(index=False)
    points["verdict"] = [verdict(*interval, tolerance) for interval in ends]
    points["verdict"] = points["verdict"].where(_can_be_judged(points))
    return in_order(points, CURVES)


def _can_be_judged(points: pd.DataFrame) -> pd.Series:
    """Return which points have no fault, and a dense model that is sound and scores better than guessing."""
    start = points[points["sparsity"] == 0]
    guess = start[["chance", "majority_floor"]].astype(float).max(axis=1)
    useless = start[(start["n_sound"] < start["n"]) | (start["value_low"] <= guess)].set_index(LINE).index
    return (points["n_sound"] == points["n"]) & ~points.set_index(LINE).index.isin(useless)


def _differences_to_dense(comparisons: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """Return for each point the difference of losses, the intervals of both differences, and their number of pairs."""
    table = comparisons[comparisons["comparison"] == "dense"].set_index(place)
    columns = pd.DataFrame({"n_pairs": table["n"], f"{LOSS}difference": table[f"{LOSS}difference"]})
    for kind in ("", LOSS):
        for end, reach in (("low", "min"), ("high", "max")):
            both = table[[f"{kind}difference_{end}", f"{kind}difference_seeds_{end}"]].astype(float)
            columns[f"{kind}difference_{end}"] = both.agg(reach, axis=1).where(table["n"] > 0)
    return columns


def _others(cell: Cell) -> dict[str, Cell]:
    """Return what a cell is compared with, by kind."""
    others = {}
    if cell.method != DENSE:
        mode = NO_FINETUNE if cell.mode == NO_FINETUNE else PLAIN_LORA
        others["dense"] = replace(cell, method=DENSE, sparsity=0, mode=mode)
    if cell.method not in (DENSE, CONTROL):
        others["random"] = replace(cell, method=CONTROL)
    if cell.mode != NO_FINETUNE:
        others["untuned"] = replace(cell, mode=NO_FINETUNE)
    if cell.mode == TRAINED_MODES[1]:
        others["modes"] = replace(cell, mode=TRAINED_MODES[0])
    return others


def _same_examples(records: list[Record]) -> bool:
    """Return whether all runs were evaluated on the same examples, with the same metric."""
    results = [record.evaluation for record in records]
    return len({(done.metric, done.examples, done.inputs.data, done.answer_tokens.tobytes()) for done in results}) == 1


def _tests(ours: list[Record], theirs: list[Record]) -> dict[str, object]:
    """Return the largest p-values over the pairs of seeds, and whether all pairs differ in one direction."""
    pairs = _pairs(ours, theirs)
    values = np.array([mine.outcomes - other.outcomes for mine, other in pairs])
    losses = np.array([mine.losses - other.losses for mine, other in pairs])
    evaluation = ours[0].evaluation
    return {
        "metric": evaluation.metric,
        "reached_sparsity": _reached(ours),
        "against_reached_sparsity": _reached(theirs),
        "n": len(pairs),
        "examples": evaluation.examples,
        **_over_seeds_interval("", values.mean(axis=-1) if pairs else values),
        "one_sign": _one_sign(values),
        "p_value": max((mcnemar_p(mine.outcomes, other.outcomes) for mine, other in pairs), default=np.nan),
        **_over_seeds_interval(LOSS, losses.sum(axis=-1) / evaluation.answer_tokens.sum() if pairs else losses),
        f"{LOSS}one_sign": _one_sign(losses),
        f"{LOSS}p_value": paired_t_p(losses).max() if pairs else np.nan,
    }


def _pairs(ours: list[Record], theirs: list[Record]) -> list[tuple[EvaluationRecord, EvaluationRecord]]:
    """Return the results of two cells by seed; nothing if a seed of either cell has no counterpart.

    The difference is over all seeds, so a test of some of them could even have the other sign."""
    others = {record.run.seed: record.evaluation for record in theirs}
    if theirs[0].run.mode == NO_FINETUNE:
        # An untrained model is the same for every seed.
        others = {record.run.seed: theirs[0].evaluation for record in ours}
    pairs = [(record.evaluation, others[record.run.seed]) for record in ours if record.run.seed in others]
    return pairs if len(pairs) == len(ours) == len(others) else []


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


def _intervals(pairs: list[tuple[list[Record], list[Record]]]) -> list[dict[str, float]]:
    """Return the differences of each pair of cells with their intervals over the examples.

    Pairs over the same examples share one drawing of the bootstrap."""
    same_examples: dict[bytes, list[int]] = {}
    for number, (ours, _) in enumerate(pairs):
        same_examples.setdefault(ours[0].evaluation.answer_tokens.tobytes(), []).append(number)
    intervals: list[dict[str, float]] = [{} for _ in pairs]
    for numbers in same_examples.values():
        rows = _intervals_over_same_examples([pairs[number] for number in numbers])
        for number, row in zip(numbers, rows, strict=True):
            intervals[number] = row
    return intervals


def _intervals_over_same_examples(pairs: list[tuple[list[Record], list[Record]]]) -> list[dict[str, float]]:
    """Return the differences with their intervals, of pairs of cells that were all evaluated on the same examples."""
    tokens = pairs[0][0][0].evaluation.answer_tokens
    values = np.array([_over_seeds(ours, "outcomes") - _over_seeds(theirs, "outcomes") for ours, theirs in pairs])
    losses = np.array([_over_seeds(ours, "losses") - _over_seeds(theirs, "losses") for ours, theirs in pairs])
    value_low, value_high = difference_intervals(values)
    loss_low, loss_high = loss_intervals(losses, tokens)
    columns = {
        "difference": values.mean(axis=-1),
        "difference_low": value_low,
        "difference_high": value_high,
        f"{LOSS}difference": losses.sum(axis=-1) / tokens.sum(),
        f"{LOSS}difference_low": loss_low,
        f"{LOSS}difference_high": loss_high,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _over_seeds(records: list[Record], name: str) -> np.ndarray:
    """Return the mean of the outcomes or losses over the seeds, by example."""
    return np.mean([getattr(record.evaluation, name) for record in records], axis=0)
