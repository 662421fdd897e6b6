"""Compare pairs of cells over the same examples, and compute the points of the curves.

    dense    a pruned cell with the dense one: with plain LoRA, or the original model if the cell did not learn the task
    untuned  a trained cell with the same model before its training
    methods  each two methods at one sparsity and mode
    against  each method with one of them, such as random pruning
    modes    a mode with the one that it is compared with (modes.py), such as sparse_to_sparse with sparse_to_dense
    studies  a cell with the same cell of the first study (compare.py)

Which method or mode is better is a question about all seeds. One seed does not show how lucky it was, so it tells no two trained
cells apart (benchmarks/intervals.py: up to nine of ten studies of equal methods would have a winner).

A question is one of these on one model, task and metric. Holm's correction is over its comparisons. Each probe that both cells
have is a metric of its own. Cells of other settings, of other examples, with a fault, or with repeated examples are not compared.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations

import pandas as pd

from sparseft.analysis.cells import KEYS, PLACE, Cells, CellScores, comparable, gain, is_fraction
from sparseft.analysis.settings import compatible
from sparseft.analysis.statistics import Spread, compare, holm, recovered_share
from sparseft.analysis.tables import COMPARISONS
from sparseft.methods import sort_key
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, NO_FINETUNE

QUESTIONS = ("dense", "untuned", "methods", "against", "modes", "studies")
# The questions about methods, modes and settings, and not about two models.
ABOUT_SEEDS = ("methods", "against", "modes", "studies")
SIGNIFICANT = 0.05
LOWER, HIGHER, WITHIN, NOT_TOLD_APART = "lower", "higher", "within", "not told apart"
# More methods than these would need more comparisons than a study can afford.
MANY_METHODS = 4
FAMILY = ["study", "question", "model", "task", "metric"]
# A smaller difference, of fractions or of nats per token, is rounding, and no share of it can be recovered.
NOTHING_LOST = 1e-9


def default_questions(cells: pd.DataFrame) -> tuple[str, ...]:
    """Return the questions of a study that names none: every method with every other one if they are few."""
    methods = set(cells["method"]) - {DENSE}
    return ("dense", "untuned", "modes", *(["methods"] if len(methods) <= MANY_METHODS else []))


def compare_cells(
    cells: Cells, tolerance: float, questions: Sequence[str] = (), against: str | None = None
) -> pd.DataFrame:
    """Return a row per comparison, with Holm's correction and the verdict. `against` names a method."""
    questions = questions or default_questions(cells.frame)
    if against is None and "methods" not in questions and "random" in set(cells.frame["method"]):
        against = "random"
    usable = cells.frame[comparable(cells.frame)]
    rows = []
    for _, place in usable.groupby(["model", "task", "metric"], sort=False):
        for ours, theirs in permutations(place.itertuples(), 2):
            for question in _questions(ours, theirs, questions, against):
                if question == "studies" or compatible(ours.settings, theirs.settings):
                    rows += _compare(cells, question, ours, theirs)
    table = pd.DataFrame(rows, columns=[*COMPARISONS, "is_guess"]).astype({"p_value": float})
    families = table.groupby(FAMILY, sort=False)["p_value"]
    table["comparisons"] = families.transform("count")
    table["p_holm"] = families.transform(holm)
    table["verdict"] = [_verdict(row, tolerance) for row in table.itertuples()]
    ranks = {"question": QUESTIONS.index, "metric": lambda name: name.startswith("probe_")}
    return table.sort_values(
        FAMILY,
        key=lambda column: column.map(ranks.get(column.name, lambda value: value)),
        kind="stable",
        ignore_index=True,
    )


def curves(cells: Cells, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return a row per reported cell, with its difference to dense and what fine-tuning recovered."""
    table = cells.frame[cells.frame["chosen"]]
    differences = {name: name for name in ("difference", "difference_low", "difference_high", "verdict")}
    for question, columns in (
        ("dense", {"against_value": "dense_value", **differences}),
        ("untuned", {"against_value": "untuned_value"}),
    ):
        rows = comparisons[comparisons["question"] == question].drop_duplicates(KEYS, keep=False)
        table = table.join(rows.set_index(KEYS)[list(columns)].rename(columns=columns), on=KEYS)
    return table.join(_recovered(cells, table))


def sections(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the curves, with the dense cells in each setting of a model and task in which they are compared.

    A dense cell often lacks the setting in which pruned cells differ, and agrees with all of them."""
    place = [*PLACE, "setting"]
    pruned = curves[curves["method"] != DENSE]
    parts = []
    for key, part in pruned.groupby(place, sort=False):
        dense = curves[(curves["method"] == DENSE) & (curves[PLACE] == list(key[:-1])).all(axis=1)]
        agrees = [any(compatible(own, other) for other in part["settings"]) for own in dense["settings"]]
        parts += [dense[agrees].assign(setting=key[-1]), part]
    with_pruned = pd.MultiIndex.from_frame(pruned[PLACE])
    parts.append(curves[~pd.MultiIndex.from_frame(curves[PLACE]).isin(with_pruned)])
    return pd.concat(parts, ignore_index=True)


def _questions(ours: tuple, theirs: tuple, asked: Sequence[str], against: str | None) -> Iterator[str]:
    """Yield the questions that a pair of cells answers."""

    def same(*names: str) -> bool:
        return all(getattr(ours, name) == getattr(theirs, name) for name in names)

    if not same("study"):
        if theirs.is_first_study and same("method", "sparsity", "mode", "training"):
            yield "studies"
        return
    mode = get_mode(ours.mode)
    both_pruned = DENSE not in (ours.method, theirs.method)
    is_other_method = both_pruned and same("sparsity", "mode") and not same("method")
    answers = {
        "dense": ours.method != DENSE and theirs.method == DENSE and theirs.mode == mode.dense_mode,
        "untuned": same("method", "sparsity") and theirs.mode == NO_FINETUNE != ours.mode,
        "modes": same("method", "sparsity") and theirs.mode == mode.compared_with,
        "methods": is_other_method and sort_key(ours.method) < sort_key(theirs.method),
    }
    yield from (question for question in asked if answers[question])
    if is_other_method and theirs.method == against:
        yield "against"


def _compare(cells: Cells, question: str, ours: tuple, theirs: tuple) -> Iterator[dict[str, object]]:
    """Yield the comparisons of two cells: on their task, and on each probe that both have, if they saw the same examples."""
    for metric in (ours.metric, *cells.probes):
        scores, other = (cells.scores.get((cell.Index, metric)) for cell in (ours, theirs))
        if scores and other and scores.identity == other.identity:
            yield _row(cells, question, ours, theirs, metric, scores, other)


def _row(
    cells: Cells, question: str, ours: tuple, theirs: tuple, metric: str, scores: CellScores, other: CellScores
) -> dict[str, object]:
    """Return the row of one comparison, without the correction for their number."""
    row = {name: getattr(ours, name) for name in KEYS} | {"question": question, "metric": metric}
    row |= {f"against_{name}": getattr(theirs, name) for name in ("study", "method", "sparsity", "mode", "training")}
    row |= {"reached_sparsity": ours.reached_sparsity, "against_reached_sparsity": theirs.reached_sparsity}
    row |= {"seeds": ours.seeds, "examples": scores.headline.values.shape[1]}
    row |= {"value": scores.headline.value, "against_value": other.headline.value}
    is_trained = NO_FINETUNE not in (ours.mode, theirs.mode)
    # No cell of their studies shows how much seeds vary.
    has_one_seed = not any(_spread(cells, ours, theirs, metric, of).degrees for of in ("values", "losses"))
    row |= {"lacks_seeds": question in ABOUT_SEEDS and is_trained and has_one_seed}
    row |= {"is_guess": question == "dense" and metric == theirs.metric and _is_guess(theirs)}
    results = {"": (scores.headline, other.headline, "values" if scores.values else "losses")}
    if scores.losses and other.losses:
        results["eval_loss_"] = (scores.losses, other.losses, "losses")
    for name, (mine, its, of) in results.items():
        result = compare(mine, its, _spread(cells, ours, theirs, metric, of))
        row |= {f"{name}difference": result.difference, f"{name}difference_low": result.low}
        row |= {f"{name}difference_high": result.high} | ({} if name else {"p_value": result.p_value})
    return row


def _spread(cells: Cells, ours: tuple, theirs: tuple, metric: str, of: str) -> Spread:
    """Return the variation between seeds that is known better: that in the study of either cell."""
    return max((cells.spread(row, metric, of) for row in (ours, theirs)), key=lambda spread: spread.degrees)


def _is_guess(dense: tuple) -> bool:
    """Return whether a dense cell scores no better than chance, or than always giving the more frequent answer."""
    guesses = [getattr(dense, name, None) for name in ("chance", "majority_floor")]
    return any(dense.value_low <= guess for guess in guesses if not pd.isna(guess))


def _verdict(row: tuple, tolerance: float) -> str | None:
    """Return the verdict on a comparison in a word; None if the other cell is dense and only guesses the task.

    A fraction is within the tolerance of dense if it is not higher, and if the whole interval is above -tolerance."""
    is_dense = row.question == "dense"
    if row.is_guess:
        return None
    is_told_apart = row.p_holm < SIGNIFICANT and not row.lacks_seeds
    if is_told_apart and row.difference > 0:
        return HIGHER
    if is_dense and is_fraction(row.metric) and row.difference_low > -tolerance:
        return WITHIN
    return LOWER if is_told_apart else NOT_TOLD_APART


def _recovered(cells: Cells, table: pd.DataFrame) -> pd.DataFrame:
    """Return for each pruned and trained cell which share of what pruning lost the training recovered, with its interval."""
    usable = cells.frame[comparable(cells.frame)]
    rows = {}
    for row in usable[(usable["method"] != DENSE) & (usable["mode"] != NO_FINETUNE)].itertuples():
        dense = _partner(usable, row, method=DENSE, sparsity=0, mode=get_mode(row.mode).dense_mode)
        untuned = _partner(usable, row, method=row.method, sparsity=row.sparsity, mode=NO_FINETUNE)
        three = [cells.scores.get((index, row.metric)) for index in (row.Index, untuned, dense)]
        if None in three or len({scores.identity for scores in three}) > 1:
            continue
        tuned, before, goal = (scores.headline for scores in three)
        if gain(row.metric) * (goal.value - before.value) > NOTHING_LOST:
            of = "values" if three[0].values else "losses"
            rows[row.Index] = recovered_share(tuned, before, goal, cells.spread(row, row.metric, of))
    names = ["recovered_share", "recovered_low", "recovered_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names).reindex(table.index)


def _partner(usable: pd.DataFrame, row: tuple, **keys: object) -> int | None:
    """Return the index of the cell with these keys in the place of a row that agrees with its settings; None without only one."""
    place = {name: getattr(row, name) for name in PLACE} | keys
    found = usable[(usable[list(place)] == list(place.values())).all(axis=1)]
    agreeing = [index for index, settings in found["settings"].items() if compatible(row.settings, settings)]
    return agreeing[0] if len(agreeing) == 1 else None
