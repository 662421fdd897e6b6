"""Compare pairs of cells over the same examples, and compute the points of the curves.

    dense    a pruned cell with the dense one: with plain LoRA, or the original model if the cell did not learn the task
    original the same for a model that is made from a pruned base, with the dense cell of the model that was pruned first
    untuned  a trained cell with the same model before its training
    methods  each two methods at one sparsity and mode
    against  each method with one of them, such as random pruning
    modes    a mode with the one that it is compared with (modes.py), such as sparse_to_sparse with sparse_to_dense
    studies  a cell with the same cell of the first study (compare.py)

Which method or mode is better is a question about all seeds. One seed does not show how lucky it was, so it tells no two trained
cells apart (benchmarks/intervals.py: up to 98 % of the studies of equal methods would have a winner).

A question is one of these on one model, task and metric. Holm's correction is over its comparisons. Each probe that both cells
have is a metric of its own. Cells of other settings, of other examples, with a fault, or with repeated examples are not compared.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from sparseft.analysis.cells import KEYS, PLACE, Cells, comparable, gain
from sparseft.analysis.settings import compatible
from sparseft.analysis.statistics import Scores, Spread, compare, holm, recovered_share
from sparseft.methods import sort_key
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE
from sparseft.tasks.metrics import LOSS

# Which pairs of cells a question compares. The columns of the second cell begin with `against_`.
_ONE_MASK = "model == against_model and method == against_method and sparsity == against_sparsity"
_DENSE = "study == against_study and method != 'dense' and against_method == 'dense' and against_mode == dense_mode"
_TWO_METHODS = (
    "model == against_model and study == against_study and method != 'dense' and against_method != 'dense'"
    " and method != against_method and sparsity == against_sparsity and mode == against_mode"
)
QUESTIONS = {
    "dense": f"model == against_model and {_DENSE}",
    "original": f"model != against_model and original == against_model and {_DENSE}",
    "untuned": f"study == against_study and {_ONE_MASK} and mode != 'no_finetune' and against_mode == 'no_finetune'",
    "methods": f"{_TWO_METHODS} and method_rank < against_method_rank",
    "against": f"{_TWO_METHODS} and against_method == @against",
    "modes": f"study == against_study and {_ONE_MASK} and against_mode == compared_with",
    "studies": f"study != against_study and against_study == @first and {_ONE_MASK} and mode == against_mode"
    " and training == against_training",
}
# The questions about methods, modes and settings, and not about two models.
ABOUT_SEEDS = ("methods", "against", "modes", "studies")
SIGNIFICANT = 0.05
LOWER, HIGHER, WITHIN, NOT_TOLD_APART = "lower", "higher", "within", "not told apart"
# More methods than these would need more comparisons than a study can afford.
MANY_METHODS = 4
FAMILY = ["study", "question", "model", "task", "metric"]
# A smaller difference, of fractions or of nats per token, is rounding, and no share of it can be recovered.
NOTHING_LOST = 1e-9
COMPARISONS = "study question model task metric method sparsity mode training setting".split()
COMPARISONS += [f"against_{name}" for name in ("study", "method", "sparsity", "mode", "training")]
COMPARISONS += "reached_sparsity against_reached_sparsity seeds examples value against_value".split()
COMPARISONS += "difference difference_low difference_high p_value p_holm comparisons verdict".split()
COMPARISONS += "lacks_seeds eval_loss_difference eval_loss_difference_low eval_loss_difference_high".split()


def default_questions(cells: pd.DataFrame) -> tuple[str, ...]:
    """Return the questions of a study that names none: every method with every other one if they are few."""
    methods = set(cells["method"]) - {DENSE}
    return ("dense", "untuned", "modes", *(["methods"] if len(methods) <= MANY_METHODS else []))


def compare_cells(
    cells: Cells, tolerance: float, questions: Sequence[str] = (), against: str | None = None
) -> pd.DataFrame:
    """Return a row per comparison, with Holm's correction and the verdict. `against` names a method."""
    asked = [*(questions or default_questions(cells.frame)), "original", "studies"]
    if against is None and "methods" not in asked and "random" in set(cells.frame["method"]):
        against = "random"
    asked += ["against"] if against else []
    first = cells.frame["study"].iloc[0]
    rows: list[dict[str, object]] = []
    for pairs in _pairs(cells):
        for question in asked:
            for pair in _of_question(pairs, question, against, first).to_dict("records"):
                rows += _compare(cells, question, pair)
    table = pd.DataFrame(rows, columns=[*COMPARISONS, "against_guesses"]).astype({"p_value": float})
    families = table.groupby(FAMILY, sort=False)["p_value"]
    table["comparisons"] = families.transform("count")
    table["p_holm"] = families.transform(holm)
    table["verdict"] = _verdicts(table, tolerance)
    ranks = {"question": list(QUESTIONS).index, "metric": lambda name: name.startswith("probe_")}
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
    return table.join(_recovered(cells))


def sections(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the curves, with the dense cells in each setting of a model and task in which they are compared.

    A dense cell often lacks the setting in which pruned cells differ, and agrees with all of them."""
    is_dense = curves["method"] == DENSE
    pruned = curves[~is_dense]
    dense = curves[is_dense].reset_index(names="cell")
    both = dense.drop(columns="setting").merge(
        pruned[[*PLACE, "setting", "settings"]], on=PLACE, suffixes=("", "_pruned")
    )
    agrees = [compatible(*settings) for settings in zip(both["settings"], both["settings_pruned"], strict=True)]
    used = both.loc[agrees].drop_duplicates(["cell", "setting"])
    alone = dense[~dense["cell"].isin(both["cell"])]
    return pd.concat([used, pruned, alone], ignore_index=True)[list(curves)]


def _pairs(cells: Cells) -> Iterator[pd.DataFrame]:
    """Yield every two cells that can be compared, of one original model, task and metric at a time."""
    columns = [*KEYS, "original", "reached_sparsity", "seeds", "settings", "value_low", "chance", "majority_floor"]
    side = cells.frame[comparable(cells.frame)].reindex(columns=columns).reset_index(names="cell")
    side["method_rank"] = side["method"].map(sort_key)
    modes = side["mode"].map(get_mode)
    for name in ("is_trained", "dense_mode", "compared_with"):
        side[name] = modes.map(attrgetter(name))
    # A cell guesses if it scores no better than chance, or than always giving the more frequent answer.
    side["guesses"] = side["value_low"] <= side[["chance", "majority_floor"]].astype(float).max(axis=1)
    for _, place in side.groupby(["original", "task", "metric"], sort=False):
        yield place.merge(place.add_prefix("against_"), how="cross")


def _of_question(pairs: pd.DataFrame, question: str, against: str | None = None, first: str = "") -> pd.DataFrame:
    """Return the pairs that a question compares. Cells of one study must agree in the settings that both have."""
    own = pairs.query(QUESTIONS[question], local_dict={"against": against, "first": first}, engine="python")
    settings = zip(own["settings"], own["against_settings"], strict=True)
    return own.loc[[question == "studies" or compatible(ours, theirs) for ours, theirs in settings]]


def _compare(cells: Cells, question: str, pair: dict) -> Iterator[dict[str, object]]:
    """Yield the comparisons of two cells: on their task, and on each probe that both have, if they saw the same examples."""
    is_about_seeds = question in ABOUT_SEEDS and pair["is_trained"] and pair["against_is_trained"]
    for column in ("value", *cells.probes):
        ours, theirs, spread = _sides(cells, pair, column)
        if not ours or not theirs or ours.seen != theirs.seen:
            continue
        row = pair | {"question": question, "examples": ours.values.shape[1]} | compare(ours, theirs, spread)._asdict()
        row |= {"value": ours.value, "against_value": theirs.value}
        # No cell of their studies shows how much seeds vary.
        row["lacks_seeds"] = is_about_seeds and not spread.degrees
        if column == "value":
            own, other, of_losses = _sides(cells, pair, "eval_loss")
            found = compare(own, other, of_losses)._asdict() if own and other else {}
            row |= {f"eval_loss_{name}": value for name, value in found.items()}
        else:
            row |= {"metric": column, "against_guesses": False}
        yield row


def _sides(cells: Cells, pair: dict, column: str) -> tuple[Scores | None, Scores | None, Spread]:
    """Return what is behind a column of two cells, and the variation between seeds: that in the study that shows it better."""
    indices = (pair["cell"], pair["against_cell"])
    spreads = [cells.spread(index, column) for index in indices]
    ours, theirs = (cells.scores.get((index, column)) for index in indices)
    return ours, theirs, max(spreads, key=lambda spread: spread.degrees)


def _verdicts(table: pd.DataFrame, tolerance: float) -> np.ndarray:
    """Return the verdict on each comparison in a word; None if the other cell is dense and only guesses the task.

    A fraction is within the tolerance of dense if it is not higher, and if the whole interval is above -tolerance."""
    is_told_apart = (table["p_holm"] < SIGNIFICANT) & ~table["lacks_seeds"].astype(bool)
    is_against_dense = table["question"].isin(["dense", "original"])
    of_dense = is_against_dense & (table["metric"] != LOSS.name)
    cases: dict[Any, pd.Series] = {
        None: is_against_dense & table["against_guesses"].astype(bool),
        HIGHER: is_told_apart & (table["difference"] > 0),
        WITHIN: of_dense & (table["difference_low"] > -tolerance),
        LOWER: is_told_apart,
    }
    return np.select(list(cases.values()), list(cases), NOT_TOLD_APART)


def _recovered(cells: Cells) -> pd.DataFrame:
    """Return for each pruned and trained cell which share of what pruning lost the training recovered, with its interval.

    The cell must have one untuned and one dense cell that agree with its settings."""
    rows = {}
    for pairs in _pairs(cells):
        untuned, dense = (
            _of_question(pairs, question).drop_duplicates("cell", keep=False).set_index("cell")["against_cell"]
            for question in ("untuned", "dense")
        )
        for cell in untuned.index.intersection(dense.index):
            indices = (cell, untuned[cell], dense[cell])
            three = [own for index in indices if (own := cells.scores.get((index, "value")))]
            if len(three) < 3 or len({scores.seen for scores in three}) > 1:
                continue
            tuned, before, goal = three
            if gain(cells.frame.at[cell, "metric"]) * (goal.value - before.value) > NOTHING_LOST:
                rows[cell] = recovered_share(tuned, before, goal, cells.spread(cell, "value"))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["recovered_share", "recovered_low", "recovered_high"])
