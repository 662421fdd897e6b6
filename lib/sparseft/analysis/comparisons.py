"""Compare pairs of cells over the same examples, and judge the curves by it.

    dense     a pruned cell with the dense one that its curve starts from
    random    another method with random pruning
    untuned   a fine-tuned cell with the same model before its training
    modes     a mode with the one that it is compared with (modes.py), such as sparse_to_sparse with sparse_to_dense

A difference is between the two cells' outcomes, or between their losses, each averaged over the seeds. The interval of one pair
of runs is over the examples and holds for these two trained models. With several pairs it is combined with Student's interval
over the pairs (statistics.combined_interval), so it holds for other seeds too. interval_from says which. If the metric is the
loss, the difference of values is that of the losses. Each probe that both cells have is compared by its outcomes, in a row of
its own.

McNemar's test compares the outcomes of two runs, and Student's paired test their losses, or outcomes between 0 and 1. With
several seeds the p_value is the largest one. Holm's correction is over a family: all comparisons of one kind on one model, task
and metric, in all settings. Outcomes and losses are two families. A difference is significant if the corrected p is small, the
interval does not contain 0, and every seed has the same sign. Two modes also need two seeds: which mode is better is a question
about all seeds, and one seed does not show how lucky it was.

A cell is not compared if it has a fault, if one of its trainings ended early, if the other cell was evaluated on other examples,
or if its examples repeat one another, because the tests assume independent examples.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sparseft.analysis.columns import COMPARISONS, CURVES
from sparseft.analysis.headlines import are_losses
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Record
from sparseft.analysis.scores import Scores, scores_of
from sparseft.analysis.statistics import (
    combined_interval,
    difference_intervals,
    holm,
    loss_intervals,
    outcomes_p,
    paired_t_p,
    t_interval,
    verdict,
)
from sparseft.analysis.tables import LINE, in_order, tidy
from sparseft.analysis.tuning import TunedCell, cell_of, with_trainings
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, NO_FINETUNE, Cell

# The method that every other one is compared with.
CONTROL = "random"
SIGNIFICANT = 0.05
FAMILY = ["comparison", "model", "task", "metric"]
# The names of the columns about losses begin with this.
LOSS = "eval_loss_"
# These columns need the whole family.
CORRECTED = ("family_size", "p_holm", "significant", f"{LOSS}p_holm", f"{LOSS}significant")
# These columns are added to those of a comparison.
LATER = ("setting", "training", "trainings_tried", "against_training", "against_trainings_tried", *CORRECTED)
# There is one column of each of these about values, and one about losses.
STATISTICS = (
    "difference",
    "difference_low",
    "difference_high",
    "difference_interval_from",
    "difference_sd",
    "one_sign",
    "p_value",
)


@dataclass(frozen=True)
class CellScores:
    """Hold what the distinct models of a cell scored, by seed. `reached_sparsity` is the mean over them."""

    cell: Cell
    reached_sparsity: float
    by_seed: dict[int, Scores]

    @property
    def first(self) -> Scores:
        """Return the scores of the first model. All models have its metric and its examples."""
        return next(iter(self.by_seed.values()))

    def mean(self, name: str) -> np.ndarray:
        """Return the mean of the outcomes or losses over the models, by example."""
        return np.mean([getattr(scores, name) for scores in self.by_seed.values()], axis=0)


@dataclass(frozen=True)
class Pair:
    """Hold two cells that are compared, and the kind of the comparison."""

    kind: str
    ours: CellScores
    theirs: CellScores

    @property
    def by_seed(self) -> list[tuple[Scores, Scores]]:
        """Return the scores of both cells by seed; nothing if a seed of either cell has no counterpart.

        The difference is over all seeds, so a test of some of them could even have the other sign."""
        others = self.theirs.by_seed
        if self.theirs.cell.mode == NO_FINETUNE:
            # An untrained model is the same for every seed.
            others = dict.fromkeys(self.ours.by_seed, self.theirs.first)
        pairs = [(mine, others[seed]) for seed, mine in self.ours.by_seed.items() if seed in others]
        return pairs if len(pairs) == len(self.ours.by_seed) == len(others) else []


def compare(judged: Iterable[Judged], tuned: Iterable[TunedCell] = ()) -> pd.DataFrame:
    """Return a row per comparison of the runs of one setting, without the correction for their number.

    `tuned` has the trained cells with their trainings, of which `judged` has the chosen ones."""
    models = sound_models(judged)
    probes = dict.fromkeys(
        name for records in models.values() for record in records for name in record.evaluation.probes
    )
    pairs = [pair for probe in (None, *probes) for pair in _pairs(models, probe)]
    return with_trainings(compare_pairs(pairs), list(tuned))


def compare_pairs(pairs: list[Pair]) -> pd.DataFrame:
    """Return a row per pair of cells, without the correction for their number."""
    rows = [
        {"comparison": pair.kind, **vars(pair.ours.cell), "against": pair.theirs.cell.id, **_tests(pair), **ends}
        for pair, ends in zip(pairs, _intervals(pairs), strict=True)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COMPARISONS.names if name not in LATER])
    return table.assign(**_combined_intervals(table, ""), **_combined_intervals(table, LOSS))


def _pairs(models: dict[Cell, list[Record]], probe: str | None) -> list[Pair]:
    """Return the pairs of cells that are compared on a probe, or on their task if `probe` is None."""
    cells = {cell: scores for cell, records in models.items() if (scores := cell_scores(cell, records, probe))}
    return [
        Pair(kind, ours, cells[other])
        for cell, ours in cells.items()
        for kind, other in _others(cell).items()
        if other in cells and _saw_the_same(ours, cells[other])
    ]


def _combined_intervals(table: pd.DataFrame, kind: str) -> dict[str, pd.Series]:
    """Return the columns of the intervals of values, or of losses, combined with Student's interval over the pairs of seeds."""
    numbers = [f"{kind}difference", f"{kind}difference_sd", f"{kind}difference_low", f"{kind}difference_high"]
    mean, sd, low, high = (table[name].astype(float) for name in numbers)
    pairs = table["n"].astype(float)
    over_seeds = t_interval(mean, sd / np.sqrt(pairs), pairs)
    low, high, source = combined_interval(mean, over_seeds, (low, high))
    return {
        f"{kind}difference_low": low,
        f"{kind}difference_high": high,
        f"{kind}difference_interval_from": pd.Series(source, table.index, dtype=object).replace("", None),
    }


def correct(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons of all settings, in the order of the study, with Holm's correction and what is significant."""
    table = table.copy()
    families = table.groupby(FAMILY)
    table["family_size"] = families["p_value"].transform("count")
    # One seed cannot show which of two modes is better.
    lacks_seeds = (table["comparison"] == "modes") & (table["n"] == 1)
    for kind in ("", LOSS):
        table[f"{kind}p_holm"] = families[f"{kind}p_value"].transform(holm)
        without_0 = (table[f"{kind}difference_low"] > 0) | (table[f"{kind}difference_high"] < 0)
        small = table[f"{kind}p_holm"] < SIGNIFICANT
        one_sign = table[f"{kind}one_sign"].astype(bool)
        table[f"{kind}significant"] = small & without_0 & one_sign & ~lacks_seeds
    # A probe has no losses.
    lossless = table[f"{LOSS}difference"].isna()
    if lossless.any():
        table[f"{LOSS}significant"] = table[f"{LOSS}significant"].astype(object).mask(lossless, None)
    keys = ["setting", "comparison", "model", "task", "metric", "method", "sparsity", "mode"]
    return in_order(tidy(table, [key for key in keys if key in table]), COMPARISONS)


def sound_models(judged: Iterable[Judged]) -> dict[Cell, list[Record]]:
    """Return the distinct models of each cell, without cells that have a fault or a training that ended early.

    The cells have no training. Raises ValueError if a cell has runs of two trainings, because they must not be pooled."""
    models: dict[Cell, dict[str | None, Record]] = {}
    trainings: dict[Cell, str] = {}
    excluded = set()
    for run in judged:
        record = run.record
        cell = cell_of(record.run)
        if trainings.setdefault(cell, record.run.training) != record.run.training:
            raise ValueError(f"{cell.id}: runs of the trainings {trainings[cell]} and {record.run.training}")
        models.setdefault(cell, {}).setdefault(record.validation.merged_digest, record)
        if not run.supports_results:
            excluded.add(cell)
    return {cell: list(records.values()) for cell, records in models.items() if cell not in excluded}


def cell_scores(cell: Cell, records: list[Record], probe: str | None) -> CellScores | None:
    """Return what the models of a cell scored; None if one of them has nothing to compare."""
    by_seed = {record.run.seed: scores_of(record, probe) for record in records}
    if None in by_seed.values():
        return None
    reached = float(np.mean([record.validation.expected_sparsity for record in records]))
    return CellScores(cell, reached, by_seed)


def judge(points: pd.DataFrame, comparisons: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Return the points with the intervals of their differences to dense, and with the verdict on the value.

    A point without a pair for every seed has no interval and no verdict. A point that was not compared has no difference and no
    recovered share either. A point has no verdict if its dense model scores no better than guessing, because that model has
    nothing to lose. A loss has no verdict, because the tolerance is a fraction."""
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
    """Return which points can have a verdict.

    The metric is a fraction, all runs are sound, and the dense model is sound and scores better than guessing."""
    start = points[points["sparsity"] == 0]
    guess = start[["chance", "majority_floor"]].astype(float).max(axis=1)
    useless = start[(start["n_sound"] < start["n"]) | (start["value_low"] <= guess)].set_index(LINE).index
    is_sound = (points["n_sound"] == points["n"]) & ~points.set_index(LINE).index.isin(useless)
    return is_sound & ~are_losses(points)


def _differences_to_dense(comparisons: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """Return for each point the difference of losses, the intervals of both differences, and their number of pairs."""
    table = comparisons[comparisons["comparison"] == "dense"].set_index(place)
    columns = pd.DataFrame({"n_pairs": table["n"], f"{LOSS}difference": table[f"{LOSS}difference"]})
    for name in ("difference_low", "difference_high", "difference_interval_from"):
        for kind in ("", LOSS):
            columns[f"{kind}{name}"] = table[f"{kind}{name}"].where(table["n"] > 0)
    return columns


def _others(cell: Cell) -> dict[str, Cell]:
    """Return what a cell is compared with, by kind."""
    others = {}
    if cell.method != DENSE:
        others["dense"] = replace(cell, method=DENSE, sparsity=0, mode=get_mode(cell.mode).dense_mode)
    if cell.method not in (DENSE, CONTROL):
        others["random"] = replace(cell, method=CONTROL)
    if cell.mode != NO_FINETUNE:
        others["untuned"] = replace(cell, mode=NO_FINETUNE)
    if other := get_mode(cell.mode).compared_with:
        others["modes"] = replace(cell, mode=other)
    return others


def _saw_the_same(ours: CellScores, theirs: CellScores) -> bool:
    """Return whether all models of two cells were evaluated on the same examples, with the same metric."""
    return len({scores.identity for cell in (ours, theirs) for scores in cell.by_seed.values()}) == 1


def _tests(pair: Pair) -> dict[str, object]:
    """Return the columns of a pair that need no other pair.

    They say what was compared, and have the largest p-values over the seeds and whether all seeds have one sign."""
    scores = pair.ours.first
    by_loss = {} if scores.losses is None else _loss_tests(pair.by_seed, scores.answer_tokens)
    by_value = by_loss if scores.outcomes is None else _outcome_tests(pair.by_seed)
    return {
        "metric": scores.metric,
        "reached_sparsity": pair.ours.reached_sparsity,
        "against_reached_sparsity": pair.theirs.reached_sparsity,
        "n": len(pair.by_seed),
        "examples": scores.examples,
        **by_value,
        **{f"{LOSS}{name}": value for name, value in by_loss.items()},
    }


def _outcome_tests(pairs: list[tuple[Scores, Scores]]) -> dict[str, object]:
    """Return the tests of the outcomes of pairs of models. Without a pair there is no test."""
    differences = np.array([mine.outcomes - other.outcomes for mine, other in pairs])
    p_values = [outcomes_p(mine.outcomes, other.outcomes) for mine, other in pairs]
    return {
        "difference_sd": _deviation(differences.mean(axis=-1) if pairs else differences),
        "one_sign": _one_sign(differences),
        "p_value": float(np.max(p_values)) if pairs else np.nan,
    }


def _loss_tests(pairs: list[tuple[Scores, Scores]], tokens: np.ndarray) -> dict[str, object]:
    """Return the tests of the losses of pairs of models. Without a pair there is no test."""
    differences = np.array([mine.losses - other.losses for mine, other in pairs])
    return {
        "difference_sd": _deviation(differences.sum(axis=-1) / tokens.sum() if pairs else differences),
        "one_sign": _one_sign(differences),
        "p_value": paired_t_p(differences).max() if pairs else np.nan,
    }


def _deviation(differences: np.ndarray) -> float:
    """Return the standard deviation of the differences over the pairs of seeds; NaN for fewer than two."""
    return float(differences.std(ddof=1)) if len(differences) > 1 else np.nan


def _one_sign(differences: np.ndarray) -> bool:
    """Return whether the differences, (pairs, examples), sum up to the same sign in every pair; False without a pair."""
    sums = differences.sum(axis=-1)
    return bool(sums.size) and bool((sums > 0).all() or (sums < 0).all())


def _intervals(pairs: list[Pair]) -> list[dict[str, float]]:
    """Return the differences of each pair of cells with their intervals over the examples.

    Pairs over the same examples share one drawing of the bootstrap."""
    same_examples: dict[tuple, list[int]] = {}
    for number, pair in enumerate(pairs):
        same_examples.setdefault(pair.ours.first.identity, []).append(number)
    intervals: list[dict[str, float]] = [{} for _ in pairs]
    for numbers in same_examples.values():
        rows = _intervals_over_same_examples([pairs[number] for number in numbers])
        for number, row in zip(numbers, rows, strict=True):
            intervals[number] = row
    return intervals


def _intervals_over_same_examples(pairs: list[Pair]) -> list[dict[str, float]]:
    """Return the differences with their intervals, of pairs of cells that were all evaluated on the same examples."""
    scores = pairs[0].ours.first
    by_loss = {} if scores.losses is None else _loss_differences(pairs, scores.answer_tokens)
    by_value = by_loss if scores.outcomes is None else _outcome_differences(pairs)
    columns = by_value | {f"{LOSS}{name}": ends for name, ends in by_loss.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _outcome_differences(pairs: list[Pair]) -> dict[str, np.ndarray]:
    """Return the differences of the outcomes, averaged over the seeds, with the ends of their intervals, (pairs,) each."""
    differences = np.array([pair.ours.mean("outcomes") - pair.theirs.mean("outcomes") for pair in pairs])
    low, high = difference_intervals(differences)
    return {"difference": differences.mean(axis=-1), "difference_low": low, "difference_high": high}


def _loss_differences(pairs: list[Pair], tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Return the differences of the losses per token, averaged over the seeds, with their intervals, (pairs,) each."""
    differences = np.array([pair.ours.mean("losses") - pair.theirs.mean("losses") for pair in pairs])
    low, high = loss_intervals(differences, tokens)
    total = differences.sum(axis=-1) / tokens.sum()
    return {"difference": total, "difference_low": low, "difference_high": high}
