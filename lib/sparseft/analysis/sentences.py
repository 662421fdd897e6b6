"""Answer what survives, which method is the best, and what fine-tuning wins back, from the frames of the tables only.

There are at most four sentences per model and task. Each names the measure that decided: the first one with a verdict
(comparisons.decided). The last says what intervals and verdicts are about.

If a speed is wished for, one more sentence per engine says which pruned model is the fastest within the tolerance of
dense, and which is the best at this speed."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sparseft.analysis.cells import KEYS, comparable, gain
from sparseft.analysis.comparisons import EQUAL, GUESS, HIGHER, NOT_TOLD_APART, WITHIN
from sparseft.analysis.study import VALUE
from sparseft.export.settings import ENGINES
from sparseft.grid import DENSE, NO_FINETUNE
from sparseft.methods import sort_key
from sparseft.modes import get_mode
from sparseft.study.config import Analysis
from sparseft.tasks import get_metric
from sparseft.tasks.metrics import LOSS, PERPLEXITIES

# The text of a missing value.
NONE = "-"
# A sentence names at most this many single cases.
NAMED = 3
# What a verdict is about, whatever its metric.
JUDGED = ["question", *(name for name in KEYS if name != "metric")]


def number(value: float | None, form: str) -> str:
    """Return a number in the format `form`; "-" if it is missing."""
    if pd.isna(value):
        return NONE
    # With z, rounding leaves no minus before a zero.
    return format(value, re.sub(r"^(\+?)", r"\1z", form))


def with_interval(row: Any, column: str, form: str = ".3f") -> str:
    """Return a value of a row with its 95 % interval in brackets."""
    value, low, high = (getattr(row, f"{column}{end}", None) for end in ("", "_low", "_high"))
    return number(value, form) + ("" if pd.isna(low) else f" [{number(low, form)}, {number(high, form)}]")


def percent(row: Any) -> str:
    """Return the sparsity of a row in percent; the one that was reached in parentheses if it differs at one decimal."""
    asked, reached = row.sparsity, row.reached_sparsity
    return str(asked) if round(reached, 1) == asked else f"{asked} ({reached:.1f})"


def name_of(row: Any) -> str:
    """Return what the pages call the method of a row. The dense runs are two models with names of their own."""
    return dense_name(row.mode) if row.method == DENSE else row.method


def dense_name(mode: str) -> str:
    """Return what the pages call the dense model of a mode."""
    if mode == NO_FINETUNE:
        return "original model"
    return "dense, fully trained" if get_mode(mode).is_full else "dense with LoRA"


def listed(words: Iterable[str]) -> str:
    """Return words as a list in a sentence."""
    *others, last = [*words] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def measure_name(row: Any) -> str:
    """Return what the pages call the measure of a comparison."""
    if row.measure != VALUE:
        return row.measure.removeprefix("eval_")
    return row.metric if row.metric.startswith("probe_") else get_metric(row.metric).label


def sentences(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> list[str]:
    """Return what one model and task show. `rows` is the verdict table, and `pairs` has what decided about each two
    cells (comparisons.decided)."""
    pruned, pairs = rows[rows["method"] != DENSE], pairs[pairs["method"] != DENSE]
    dense, methods, untuned = (pairs[pairs["question"] == name] for name in ("dense", "methods", "untuned"))
    won_back = counted(untuned, "Fine-tuned against not fine-tuned: ")
    found = [_survived(rows, dense, tolerance), _best(pruned, methods, tolerance), won_back, _seeds(rows)]
    return list(filter(None, found))


def _seeds(rows: pd.DataFrame) -> str:
    """Say what intervals and verdicts are about."""
    if (rows["mode"] == NO_FINETUNE).all():
        return "Nothing was trained: intervals and verdicts cover other examples."
    if (seeds := rows["seeds"].max()) == 1:
        return "One seed: intervals and verdicts are about these trained models; another seed may give others."
    return f"{seeds} seeds per training: intervals and verdicts cover other seeds and examples, with these masks."


def counted(pairs: pd.DataFrame, start: str) -> str:
    """Count the pairs of cells by what decided about them; empty without a pair."""
    words = [
        # A pair whose value is not judged, and that has no verdict by another measure, is not told apart.
        row.verdict.replace(GUESS, NOT_TOLD_APART)
        if pd.isna(row.better)
        else f"{'better' if row.better else 'worse'} by {measure_name(row)}"
        for row in pairs.itertuples()
    ]
    return f"{start}{listed(f'{count} {word}' for word, count in sorted(Counter(words).items()))}." if words else ""


def _survived(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Say at which largest sparsity a method is within the tolerance of dense; or count what decided about the pruned
    models. No value is judged by a dense model that only guesses."""
    near = rows[rows["verdict"].isin([WITHIN, HIGHER])]
    guessing = listed(map(dense_name, rows["dense_mode"][rows["verdict"] == GUESS].unique()))
    guess = f"No better than a guess: {guessing}. " if guessing else ""
    is_share = rows["metric"].ne(LOSS.name).any()
    if is_share and len(near):
        largest = near[near["sparsity"] == near["sparsity"].max()]
        or_higher = " or higher" if HIGHER in set(largest["verdict"]) else ""
        methods = listed(f"{row.method} {percent(row)} % ({row.mode})" for row in largest.itertuples())
        return f"{guess}Largest sparsity within {tolerance:g} of dense{or_higher}: {methods}."
    none_near = "" if guess or not is_share else f"No pruned model is shown to be within {tolerance:g} of dense. "
    counts = counted(pairs, f"{none_near}Against dense, by the first measure that decides: ")
    return guess + counts + _needed(pairs, tolerance)


def _best(pruned: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Say which method is better than every other at its sparsity and mode; or which are not told apart."""
    count = pruned["method"].nunique()
    if count < 2:
        return ""
    if pairs.empty:
        return "No method is called the best, because no two were compared (analysis.compare, or faults in the memo)."
    # What is said of the best methods, and where there is none -> mode -> sparsities.
    best: dict[str, dict[str, list[str]]] = {}
    ties: dict[str, dict[str, list[str]]] = {}
    undecided = pairs[:0]
    for (mode, sparsity), compared in pairs.groupby(["mode", "sparsity"], sort=False):
        words, leaders = _outcome(compared)
        (best if len(leaders) == 1 else ties).setdefault(words, {}).setdefault(mode, []).append(str(sparsity))
        are_leaders = compared[["method", "against_method"]].isin(leaders).all(axis=1)
        undecided = pd.concat([undecided, compared[are_leaders]])
    parts = [f"{words} {_places(modes)}" for words, modes in ties.items()]
    if len(parts) > 2:
        parts = ["elsewhere no method is better than every other" if best else "No method is better than every other"]
    if best:
        parts.insert(0, f"Best of {count} methods: {'; '.join(f'{words} {_places(best[words])}' for words in best)}")
    return "; ".join(parts) + _unequal(pruned) + "." + _needed(undecided, tolerance)


def _needed(pairs: pd.DataFrame, tolerance: float) -> str:
    """Say how many rows a difference of the tolerance needs in the pairs that are not told apart; empty if there are
    enough."""
    pairs = pairs[(pairs["verdict"] == NOT_TOLD_APART) & (pairs["rows_needed"] > pairs["examples"])]
    if pairs.empty:
        return ""
    row = pairs.loc[pairs["rows_needed"].idxmax()]
    needed = float(f"{row['rows_needed']:.2g}")
    what = f"A difference of {tolerance:g} in {measure_name(row)}"
    return f" {what} needs about {needed:,.0f} rows; you have {row['examples']:,}."


def _outcome(pairs: pd.DataFrame) -> tuple[str, list[str]]:
    """Return which methods of one sparsity and mode may be the best, in words and by name.

    A method is the best if it is better than every other by a comparison of its own. `pairs` has what decided about
    each two."""
    # The better and the worse method -> the measure.
    beaten = {
        (pair.method, pair.against_method)[:: 1 if pair.better else -1]: measure_name(pair)
        for pair in pairs.dropna(subset="better").itertuples()
    }
    compared = sorted({*pairs["method"], *pairs["against_method"]}, key=sort_key)
    unbeaten = [name for name in compared if name not in {worse for _, worse in beaten}]
    if not unbeaten:
        return "each method is worse than another one by some measure", compared
    first, *others = unbeaten
    if others:
        verdicts = pairs["verdict"][pairs[["method", "against_method"]].isin(unbeaten).all(axis=1)]
        return f"{listed(unbeaten)} are {EQUAL if set(verdicts) == {EQUAL} else NOT_TOLD_APART}", unbeaten
    if rivals := [other for other in compared if other != first and (first, other) not in beaten]:
        return f"{first} is not told apart from {listed(rivals)}", [first, *rivals]
    measures = dict.fromkeys(beaten[first, other] for other in compared if other != first)
    return f"{first}, by {listed(measures)},", unbeaten


def _places(sparsities: Mapping[str, list[str]]) -> str:
    """Return sparsities by mode in words. Modes of the same sparsities stand together."""
    modes: dict[str, list[str]] = {}
    for mode, own in sparsities.items():
        modes.setdefault(listed(own), []).append(mode)
    return "at " + listed(f"{text} % ({', '.join(own)})" for text, own in modes.items())


def _unequal(pruned: pd.DataFrame) -> str:
    """Say which sparsities were not reached, because methods are compared at the requested one."""
    missed = pruned[pruned["reached_sparsity"].round(1) != pruned["sparsity"]].drop_duplicates(["method", "sparsity"])
    names = [f"{row.method} {percent(row)} %" for row in missed.itertuples()]
    shown = names if len(names) <= NAMED else [*names[:NAMED], "others"]
    return f"; reached sparsities differ: {listed(shown)}" if names else ""


def speed_sentences(family: pd.DataFrame, comparisons: pd.DataFrame, options: Analysis) -> list[str]:
    """Return a sentence per engine that measured a pruned model.

    `family` has the verdict rows of a model on a task, and of the models that were made from it by pruning."""
    is_original, is_dense = family["model"] == family["original"], family["method"] == DENSE
    originals = family[is_original & is_dense]
    pruned = family.assign(question=np.where(is_original, "dense", "original"))[comparable(family) & ~is_dense]
    if pruned.empty or originals.empty:
        return []
    pruned = pruned.join(_nearness(comparisons, originals["metric"].iloc[0]), on=JUDGED)
    measured = [engine for engine in ENGINES if pruned.get(f"{engine}_speedup", pd.Series()).notna().any()]
    return [_speed(pruned, originals, engine, options) for engine in measured]


def _nearness(comparisons: pd.DataFrame, metric: str) -> pd.Series:
    """Return by cell 1 if it is within the tolerance of dense or higher, 0 if it is not shown to be.

    The headline metric decides. If it is a loss, which has no tolerance, every probe must be within."""
    comparisons = comparisons[comparisons["measure"] == VALUE]
    is_fit = comparisons["metric"] == metric if metric != LOSS.name else comparisons["metric"].str.startswith("probe_")
    near = comparisons["verdict"].isin([WITHIN, HIGHER]).astype(float)
    return comparisons.assign(near=near)[is_fit].groupby(JUDGED, dropna=False)["near"].min()


def _speed(pruned: pd.DataFrame, dense: pd.DataFrame, engine: str, options: Analysis) -> str:
    """Return the sentence about the models whose speed an engine measured."""
    pruned = pruned.rename(columns=lambda name: name.removeprefix(f"{engine}_")).sort_values("speedup")
    rows = pruned.dropna(subset="speedup")
    # A single measurement has no interval.
    faster = rows[rows.get("speedup_low", rows["speedup"]).fillna(rows["speedup"]) > 1]
    wish = options.wished_speedup or 1
    missing = f" ({len(pruned) - len(rows)} more are not measured)" if len(rows) < len(pruned) else ""
    models, near = f"of {len(rows)} pruned models{missing}", f"within {options.tolerance:g} of dense"
    first = f"In {engine}, none {models} is shown to be faster and {near}"
    if len(within := faster[faster["near"] == 1]):
        first = f"In {engine}, the fastest {models} {near} is {_named(within.iloc[-1])}"
    reached = faster[faster["speedup"] >= wish]
    if reached.empty:
        return f"{first}; none that is shown to be faster reaches x {wish:g}; the fastest is {_named(rows.iloc[-1])}."
    best, quality = _best_quality(reached, dense)
    return f"{first}; the best with x {wish:g} or faster is {_named(best)}, {quality}."


def _named(row: Any) -> str:
    """Return a model in words, with its speed."""
    made = "" if row["model"] == row["original"] else f"{row['model']}, "
    return f"{made}{name_of(row)} {percent(row)} % ({row['mode']}), x {with_interval(row, 'speedup', '.2f')}"


def _best_quality(rows: pd.DataFrame, dense: pd.DataFrame) -> tuple[pd.Series, str]:
    """Return the best of some models, and in words by what.

    The headline decides if the interval of the best lies apart from the others, else a perplexity, else the loss. They
    also judge a model that is alone."""
    metric, sign = rows["metric"].iloc[0], gain(rows["metric"].iloc[0])
    near, far = ("value_low", "value_high")[::sign]
    ranked = rows.sort_values("value", key=lambda value: sign * value, kind="stable")
    best, others = ranked.iloc[-1], ranked.iloc[:-1]
    is_apart = len(others) and (sign * (best[near] - others[far]) > 0).all()
    names = [*(name for name in rows if name.startswith(PERPLEXITIES)), "eval_loss"]
    known = [name for name in names if rows[name].notna().all()]
    column, label, reason = "value", metric, ""
    if known and not is_apart:
        column = label = known[0]
        best, reason = rows.loc[rows[column].idxmin()], f"; the intervals of {metric} overlap" if len(others) else ""
    # A training also lowers the perplexity of dense, so a trained model stands beside both.
    beside = []
    for mode in dict.fromkeys((NO_FINETUNE, best["dense_mode"])):
        for row in dense[dense["mode"] == mode].to_dict("records"):
            multiple = f", x {best[column] / row[column]:z.2f}" if column.startswith(PERPLEXITIES) else ""
            beside.append(f"{dense_name(mode)} {number(row[column], '.3f')}{multiple}")
    return best, f"{label} {with_interval(best, column)} ({', '.join(beside) or NONE}{reason})"
