"""Say in a sentence which pruned model is the fastest within the tolerance of dense, and which is the best at a wished
speed."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from sparseft.analysis.cells import KEYS, comparable, gain, is_fraction
from sparseft.analysis.comparisons import HIGHER, VALUE, WITHIN
from sparseft.analysis.sentences import name_of, number, percent, with_interval
from sparseft.study.config import Analysis
from sparseft.study.export_settings import ENGINES
from sparseft.study.grid import DENSE
from sparseft.tasks.metrics import PERPLEXITIES

# What a verdict is about, whatever its metric.
JUDGED = ["question", *(name for name in KEYS if name != "metric")]


def speed_sentences(family: pd.DataFrame, comparisons: pd.DataFrame, options: Analysis) -> list[str]:
    """Return a sentence per engine that measured a pruned model.

    `family` has the verdict rows of a model on a task, and of the models that were made from it by pruning."""
    is_original = family["model"] == family["original"]
    originals = family[is_original & (family["method"] == DENSE)]
    pruned = family.assign(question=np.where(is_original, "dense", "original"))
    pruned = pruned[comparable(pruned) & (pruned["method"] != DENSE)]
    if pruned.empty or originals.empty:
        return []
    pruned = pruned.join(_nearness(comparisons, originals["metric"].iloc[0]), on=JUDGED)
    dense = {row.mode: row for row in originals.itertuples()}
    engines = [engine for engine in ENGINES if pruned.get(f"{engine}_speedup", pd.Series()).notna().any()]
    return [_sentence(pruned, dense, engine, options) for engine in engines]


def _nearness(comparisons: pd.DataFrame, metric: str) -> pd.Series:
    """Return by cell 1 if it is within the tolerance of dense or higher, 0 if it is not shown to be.

    The headline metric decides. If it is a loss, which has no tolerance, every probe must be within."""
    comparisons = comparisons[comparisons["measure"] == VALUE]
    is_fit = comparisons["metric"] == metric if is_fraction(metric) else comparisons["metric"].str.startswith("probe_")
    near = comparisons["verdict"].isin([WITHIN, HIGHER]).astype(float)
    return comparisons.assign(near=near)[is_fit].groupby(JUDGED, dropna=False)["near"].min()


def _sentence(pruned: pd.DataFrame, dense: Mapping[str, Any], engine: str, options: Analysis) -> str:
    """Return the sentence about the models whose speed an engine measured."""
    name = f"{engine}_speedup"
    # A single measurement has no interval.
    is_faster = pruned.get(f"{name}_low", pruned[name]).fillna(pruned[name]) > 1
    rows: list[Any] = [*pruned.assign(is_faster=is_faster).dropna(subset=name).sort_values(name).itertuples()]
    wish = options.wished_speedup or 1
    goal = f"x {wish:g} or faster"
    missing = f" ({len(pruned) - len(rows)} more are not measured)" if len(rows) < len(pruned) else ""
    models, near = f"of {len(rows)} pruned models{missing}", f"within {options.tolerance:g} of dense"
    within = [f"the fastest {models} {near} is {_named(row, name)}" for row in rows if row.is_faster and row.near == 1]
    first = f"In {engine}, {[f'none {models} is shown to be faster and {near}', *within][-1]}"
    if not (reached := [row for row in rows if getattr(row, name) >= wish]):
        return f"{first}; none has {goal}, and the fastest is {_named(rows[-1], name)}."
    best, quality = _best(reached, dense)
    return f"{first}; the best with {goal} is {_named(best, name)}, {quality}."


def _named(row: Any, name: str) -> str:
    """Return a model in words, with its speed."""
    made = "" if row.model == row.original else f"{row.model}, "
    return f"{made}{name_of(row)} {percent(row)} % ({row.mode}), x {with_interval(row, name, '.2f')}"


def _best(rows: list[Any], dense: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the best of some models, and in words by what.

    The headline decides if the interval of the best lies apart from the others, else a perplexity, else the loss."""
    metric = rows[0].metric
    near, far = ("value_low", "value_high")[:: gain(metric)]
    *others, best = sorted(rows, key=lambda row: gain(metric) * row.value)
    is_apart = all(gain(metric) * (getattr(best, near) - getattr(row, far)) > 0 for row in others)
    names = [name for name in best._fields if name.startswith(PERPLEXITIES)] + ["eval_loss"]
    known = [name for name in names if not any(pd.isna(getattr(row, name)) for row in rows)]
    column, label, reason = "value", metric, ""
    if known and not is_apart:
        column = label = known[0]
        best, reason = min(rows, key=attrgetter(column)), f"; the intervals of {metric} overlap"
    of_dense = number(getattr(dense.get(best.dense_mode), column, None), ".3f")
    return best, f"{label} {with_interval(best, column)} (dense {of_dense}{reason})"
