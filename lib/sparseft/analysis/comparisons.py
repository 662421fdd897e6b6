"""Compare pairs of cells over the same examples, and compute the points of the curves.

    dense    a pruned cell with the dense one: with plain LoRA, or the original model if the cell did not learn the task
    original the same for a model that is made from a pruned base, with the dense cell of the original model
    untuned  a trained cell with the same model before its training
    methods  each two methods at one sparsity and mode
    against  each method with one of them, such as random pruning
    modes    a mode with the one that it is compared with (modes/), such as sparse_to_sparse with sparse_to_dense

The paired test is about the models that were trained. With several seeds it is about other seeds too
(docs/statistics.md).

Two cells are compared by three measures, in this order: the value of the task's metric, the loss of the right answers,
and the divergence from the original model. After a training on the task, the divergence says how far the model has
moved and not how good it is, so it is compared only between models that did not learn the task. Each probe that both
cells have is a metric of its own.

A question is one of these on one model, task and metric. Holm's correction is over all of its tests, by all measures.
So at most 5 % of the studies of equal cells have a verdict by any measure, and a sentence may use the first measure
with one (`decided`).

Cells of other settings, of other examples, with a fault, or with repeated examples are not compared.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from sparseft.analysis.cells import KEYS, PLACE, comparable, gain
from sparseft.analysis.settings import compatible
from sparseft.analysis.statistics import compare, holm
from sparseft.analysis.study import EVAL_LOSS, MEASURES, VALUE, in_order
from sparseft.axes.grid import DENSE, NO_FINETUNE
from sparseft.axes.methods import sort_key
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks.metrics import LOSS
from sparseft.data.settings import DIVERGENCE
from sparseft.study.planning.power import SIGNIFICANT, rows_needed

# Which pairs of cells a question compares. The columns of the second cell begin with `against_`.
_ONE_MASK = "model == against_model and method == against_method and sparsity == against_sparsity"
_DENSE = "method != 'dense' and against_method == 'dense' and against_mode == dense_mode"
_TWO_METHODS = (
    "model == against_model and method != 'dense' and against_method != 'dense'"
    " and method != against_method and sparsity == against_sparsity and mode == against_mode"
)
QUESTIONS = {
    "dense": f"model == against_model and {_DENSE}",
    "original": f"model != against_model and original == against_model and {_DENSE}",
    "untuned": f"{_ONE_MASK} and mode != 'no_finetune' and against_mode == 'no_finetune'",
    "methods": f"{_TWO_METHODS} and method_rank < against_method_rank",
    "against": f"{_TWO_METHODS} and against_method == @against",
    "modes": f"{_ONE_MASK} and against_mode == compared_with",
}
LOWER, HIGHER, WITHIN, NOT_TOLD_APART = "lower", "higher", "within", "not told apart"
EQUAL, GUESS = "equal here", "dense guesses"
# More methods than these would need more comparisons than a study can afford.
MANY_METHODS = 6
FAMILY = ["question", "model", "task", "metric"]
# The cell that another one is compared with.
AGAINST = ["against_method", "against_sparsity", "against_mode", "against_training"]
# The columns of comparisons.csv.
COMPARISONS = "study question model task metric measure method sparsity mode training setting".split()
COMPARISONS += AGAINST
COMPARISONS += "reached_sparsity against_reached_sparsity seeds examples value against_value".split()
COMPARISONS += "difference difference_low difference_high p_value p_holm comparisons verdict rows_needed".split()
# The columns of sparsity_vs_performance.csv.
CURVES = [*KEYS, *"reached_sparsity seeds value value_low value_high dense_value difference difference_low".split()]
CURVES += "difference_high verdict untuned_value eval_loss samples_per_second".split()
# The columns of a pair of cells.
_PAIR = ["question", *KEYS, *AGAINST]


def compare_cells(
    cells: pd.DataFrame, tolerance: float, questions: Sequence[str] = (), against: str | None = None
) -> pd.DataFrame:
    """Return a row per comparison, with Holm's correction and the verdict. `against` names a method."""
    methods = set(cells["method"])
    # A study that names none compares every method with every other one if they are few.
    usual = ["dense", "untuned", "modes"] + (["methods"] if len(methods - {DENSE}) <= MANY_METHODS else [])
    asked = [*(questions or usual), "original"]
    if against is None and "methods" not in asked and "random" in methods:
        against = "random"
    asked += ["against"] if against else []
    rows: list[dict[str, object]] = []
    for pairs in _pairs(cells):
        for question in asked:
            own = pairs.query(QUESTIONS[question], local_dict={"against": against}, engine="python")
            # Their cells agree in the settings that both have.
            agrees = list(map(compatible, own["settings"], own["against_settings"]))
            for pair in own.loc[agrees].to_dict("records"):
                rows += _compare(question, pair)
    table = pd.DataFrame(rows, columns=[*COMPARISONS, "deviation", "is_equal", "against_guesses"])
    table = table.astype({"is_equal": bool, "against_guesses": bool, "p_value": float, "deviation": float})
    families = table.groupby(FAMILY, sort=False)["p_value"]
    table["comparisons"], table["p_holm"] = families.transform("count"), families.transform(holm)
    table["verdict"] = _verdicts(table, tolerance)
    # Models that are equal here do not show how much they vary.
    deviations = table["deviation"].where(~table["is_equal"])
    table["rows_needed"] = list(map(partial(rows_needed, tolerance), deviations, table["comparisons"]))
    ranks = {"question": list(QUESTIONS).index, "metric": lambda name: name.startswith("probe_")}
    return in_order(table, FAMILY, ranks)


def curves(cells: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return a row per reported cell, with its difference to dense and its value before fine-tuning."""
    table = cells[cells["chosen"]]
    differences = {name: name for name in ("difference", "difference_low", "difference_high", "verdict")}
    for question, measure, columns in (
        ("dense", VALUE, {"against_value": "dense_value", **differences}),
        *[("dense", measure, {"verdict": f"{measure}_verdict"}) for measure in (EVAL_LOSS, DIVERGENCE)],
        ("untuned", VALUE, {"against_value": "untuned_value"}),
    ):
        rows = comparisons[comparisons["question"].eq(question) & comparisons["measure"].eq(measure)]
        rows = rows.drop_duplicates(KEYS, keep=False)
        table = table.join(rows.set_index(KEYS)[list(columns)].rename(columns=columns), on=KEYS)
    return table


def sections(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the curves, with the dense cells in each setting of a model and task in which they are
    compared.

    A dense cell often lacks the setting in which pruned cells differ, and agrees with all of them."""
    is_dense = curves["method"] == DENSE
    pruned = curves[~is_dense]
    dense = curves[is_dense].reset_index(names="cell")
    both = dense.drop(columns="setting").merge(
        pruned[[*PLACE, "setting", "settings"]], on=PLACE, suffixes=("", "_pruned")
    )
    agrees = list(map(compatible, both["settings"], both["settings_pruned"]))
    used = both.loc[agrees].drop_duplicates(["cell", "setting"])
    alone = dense[~dense["cell"].isin(both["cell"])]
    return pd.concat([used, pruned, alone], ignore_index=True)[list(curves)]


def _pairs(cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield every two cells that can be compared, of one original model, task and metric at a time."""
    columns = [*KEYS, *"dense_mode original reached_sparsity seeds settings scores spreads".split()]
    columns += ["value_low", "chance", "majority_floor"]
    side = cells[comparable(cells)].reindex(columns=columns)
    side["method_rank"] = side["method"].map(sort_key)
    side["compared_with"] = side["mode"].map(lambda mode: get_mode(mode).compared_with)
    # A cell guesses if it scores no better than chance, or than always giving the more frequent answer.
    side["guesses"] = side["value_low"] <= side[["chance", "majority_floor"]].astype(float).max(axis=1)
    for _, place in side.groupby(["original", "task", "metric"], sort=False):
        yield place.merge(place.add_prefix("against_"), how="cross")


def _compare(question: str, pair: dict) -> Iterator[dict[str, object]]:
    """Yield the comparisons of two cells: by each measure, and on each probe that both have, if they saw the same
    examples."""
    is_compared = {
        EVAL_LOSS: pair["metric"] != LOSS.name,
        DIVERGENCE: pair["dense_mode"] == pair["against_dense_mode"] == NO_FINETUNE,
    }
    for column, ours in pair["scores"].items():
        theirs = pair["against_scores"].get(column)
        if not theirs or ours.seen != theirs.seen or not is_compared.get(column, True):
            continue
        # The variation between seeds is that in the study that shows it better.
        spreads = (pair["spreads"][column], pair["against_spreads"][column])
        row = pair | compare(ours, theirs, max(spreads, key=lambda spread: spread.degrees))._asdict()
        row |= {"question": question, "measure": column, "examples": ours.values.shape[1], "value": ours.value}
        row |= {"against_value": theirs.value, "is_equal": np.array_equal(ours.means, theirs.means)}
        if column not in MEASURES:
            row |= {"metric": column, "measure": VALUE, "against_guesses": False}
        yield row


def _verdicts(table: pd.DataFrame, tolerance: float) -> np.ndarray:
    """Return the verdict on each comparison in a word.

    A fraction is within the tolerance of dense if it is not higher, and if the whole interval is above -tolerance. No
    value is judged beside a dense model that only guesses. No divergence is below that of the original model, which is
    0."""
    of_value = table["measure"] == VALUE
    is_told_apart = table["p_holm"] < SIGNIFICANT
    is_against_dense = table["question"].isin(["dense", "original"])
    cases: dict[str, pd.Series] = {
        GUESS: is_against_dense & of_value & table["against_guesses"],
        HIGHER: is_told_apart & (table["difference"] > 0),
        WITHIN: is_against_dense & of_value & (table["metric"] != LOSS.name) & (table["difference_low"] > -tolerance),
        EQUAL: table["is_equal"],
        LOWER: is_told_apart & ~(is_against_dense & (table["measure"] == DIVERGENCE)),
    }
    return np.select(list(cases.values()), list(cases), NOT_TOLD_APART)


def decided(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return a row per pair of cells: that of the first measure with a verdict, else that of the value.

    `better` says whether the first cell is better by this measure; None without a verdict."""
    has_verdict = comparisons["verdict"].isin([LOWER, HIGHER, WITHIN])
    order = comparisons.assign(is_open=~has_verdict, place=comparisons["measure"].map(MEASURES.index))
    first = order.sort_values(["is_open", "place"], kind="stable").drop_duplicates(_PAIR).sort_index(kind="stable")
    signs = [gain(row.metric) if row.measure == VALUE else -1 for row in first.itertuples()]
    better = (first["verdict"].eq(HIGHER) == np.greater(signs, 0)).astype(object)
    return first.assign(better=better.where(first["verdict"].isin([LOWER, HIGHER]), None))
