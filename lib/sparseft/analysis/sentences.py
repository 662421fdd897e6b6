"""Answer what survives, which method is the best, and what fine-tuning wins back, from the frames of the tables only.

There are at most four sentences per model and task. Each names the measure that decided: the first one with a verdict
(comparisons.decided). The last says what intervals and verdicts are about.

If a speed is wished for, one more sentence per engine says which pruned model is the fastest within the tolerance of
dense, and which is the best at this speed."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
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
    counts = sorted(Counter(map(_decision, pairs.itertuples())).items())
    return f"{start}{listed(f'{count} {word}' for word, count in counts)}." if counts else ""


def _decision(row: Any) -> str:
    """Return what decided about a pair of cells; not told apart if the value is not judged and no other measure has a
    verdict."""
    if pd.isna(row.better):
        return row.verdict.replace(GUESS, NOT_TOLD_APART)
    return f"{'better' if row.better else 'worse'} by {measure_name(row)}"


def _guessing(rows: pd.DataFrame) -> str:
    """Say which dense models only guess, so that no value is judged by them; empty if none does."""
    unjudged = rows["dense_mode"][rows["verdict"] == GUESS]
    words = [
        f"{name_of(row)} {with_interval(row, 'value')}, chance {number(row.chance, '.2f')}"
        for row in rows[(rows["method"] == DENSE) & rows["mode"].isin(unjudged)].itertuples()
    ]
    return f"No better than a guess: {listed(words)}. " if words else ""


def _survived(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Say at which largest sparsity a method is within the tolerance of dense; or count what decided about the pruned
    models."""
    near = rows[rows["verdict"].isin([WITHIN, HIGHER])]
    is_share, guess = rows["metric"].ne(LOSS.name).any(), _guessing(rows)
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
    outcomes, parts = [], []
    for (mode, sparsity), compared in pairs.groupby(["mode", "sparsity"], sort=False):
        words, leaders = _outcome(compared)
        is_best = len(leaders) == 1
        outcomes.append((is_best, words, mode, str(sparsity)))
        leading = compared[["method", "against_method"]].isin(leaders)
        deciding = leading.any(axis=1) if is_best else leading.all(axis=1)
        parts.append(compared[deciding].assign(is_best=is_best))
    pairs, table = pd.concat(parts), pd.DataFrame(outcomes, columns=["is_best", "words", "mode", "sparsity"])
    winners, ties = (
        [f"{words} {_places(own)}" for words, own in table[table["is_best"] == is_best].groupby("words", sort=False)]
        for is_best in (True, False)
    )
    if len(ties) > 2:
        ties = ["elsewhere no method is better than every other" if winners else "No method is better than every other"]
    if winners:
        ties.insert(0, f"Best of {count} methods: {'; '.join(winners)}{_closest(pairs[pairs['is_best']])}")
    return "; ".join(ties) + _unequal(pruned) + "." + _needed(pairs[~pairs["is_best"]], tolerance)


def _closest(pairs: pd.DataFrame) -> str:
    """Return the least sure of the comparisons that the best methods have won."""
    row = pairs.loc[pairs["p_holm"].idxmax()]
    difference = f"{row['method']} minus {row['against_method']}, {with_interval(row, 'difference', '+.3f')}"
    return f" (closest: {difference} in {measure_name(row)}, corrected p {row['p_holm']:.1g})"


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
    beaten = {
        (pair.method, pair.against_method)[:: 1 if pair.better else -1]: measure_name(pair)
        for pair in pairs.dropna(subset="better").itertuples()
    }
    compared = sorted({*pairs["method"], *pairs["against_method"]}, key=sort_key)
    unbeaten = [m for m in compared if not any((other, m) in beaten for other in compared)]
    if not unbeaten:
        return "each method is worse than another one by some measure", compared
    first, *others = unbeaten
    if others:
        verdicts = pairs["verdict"][pairs[["method", "against_method"]].isin(unbeaten).all(axis=1)]
        return f"{listed(unbeaten)} are {EQUAL if set(verdicts) == {EQUAL} else NOT_TOLD_APART}", unbeaten
    rivals = [m for m in compared if m != first and (first, m) not in beaten]
    if rivals:
        return f"{first} is not told apart from {listed(rivals)}", [first, *rivals]
    measures = dict.fromkeys(beaten[first, other] for other in compared if other != first)
    return f"{first}, by {listed(measures)},", unbeaten


def _places(outcomes: pd.DataFrame) -> str:
    """Return sparsities by mode in words. Modes of the same sparsities stand together."""
    sparsities = outcomes.groupby("mode", sort=False)["sparsity"].agg(listed)
    return "at " + listed(
        f"{text} % ({', '.join(own.index)})" for text, own in sparsities.groupby(sparsities, sort=False)
    )


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
    dense = {row.mode: row for row in originals.itertuples()}
    engines = [engine for engine in ENGINES if pruned.get(f"{engine}_speedup", pd.Series()).notna().any()]
    return [_speed(pruned, dense, engine, options) for engine in engines]


def _nearness(comparisons: pd.DataFrame, metric: str) -> pd.Series:
    """Return by cell 1 if it is within the tolerance of dense or higher, 0 if it is not shown to be.

    The headline metric decides. If it is a loss, which has no tolerance, every probe must be within."""
    comparisons = comparisons[comparisons["measure"] == VALUE]
    is_fit = comparisons["metric"] == metric if metric != LOSS.name else comparisons["metric"].str.startswith("probe_")
    near = comparisons["verdict"].isin([WITHIN, HIGHER]).astype(float)
    return comparisons.assign(near=near)[is_fit].groupby(JUDGED, dropna=False)["near"].min()


def _speed(pruned: pd.DataFrame, dense: Mapping[str, Any], engine: str, options: Analysis) -> str:
    """Return the sentence about the models whose speed an engine measured."""
    pruned = pruned.rename(columns=lambda name: name.removeprefix(f"{engine}_"))
    speedup = pruned["speedup"]
    # A single measurement has no interval.
    is_faster = pruned.get("speedup_low", speedup).fillna(speedup) > 1
    rows: list[Any] = [*pruned.assign(is_faster=is_faster).dropna(subset="speedup").sort_values("speedup").itertuples()]
    wish = options.wished_speedup or 1
    goal = f"x {wish:g} or faster"
    missing = f" ({len(pruned) - len(rows)} more are not measured)" if len(rows) < len(pruned) else ""
    models, near = f"of {len(rows)} pruned models{missing}", f"within {options.tolerance:g} of dense"
    within = [f"the fastest {models} {near} is {_named(row)}" for row in rows if row.is_faster and row.near == 1]
    first = f"In {engine}, {[f'none {models} is shown to be faster and {near}', *within][-1]}"
    if not (reached := [row for row in rows if row.is_faster and row.speedup >= wish]):
        return f"{first}; none that is shown to be faster reaches x {wish:g}; the fastest is {_named(rows[-1])}."
    best, quality = _best_quality(reached, dense)
    return f"{first}; the best with {goal} is {_named(best)}, {quality}."


def _named(row: Any) -> str:
    """Return a model in words, with its speed."""
    made = "" if row.model == row.original else f"{row.model}, "
    return f"{made}{name_of(row)} {percent(row)} % ({row.mode}), x {with_interval(row, 'speedup', '.2f')}"


def _best_quality(rows: list[Any], dense: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the best of some models, and in words by what.

    The headline decides if the interval of the best lies apart from the others, else a perplexity, else the loss. They
    also judge a model that is alone."""
    metric, sign = rows[0].metric, gain(rows[0].metric)
    near, far = ("value_low", "value_high")[::sign]
    *others, best = sorted(rows, key=lambda row: sign * row.value)
    is_apart = bool(others) and all(sign * (getattr(best, near) - getattr(row, far)) > 0 for row in others)
    names = [*(name for name in best._fields if name.startswith(PERPLEXITIES)), "eval_loss"]
    known = [name for name in names if not any(pd.isna(getattr(row, name)) for row in rows)]
    column, label, reason = "value", metric, ""
    if known and not is_apart:
        column = label = known[0]
        best, reason = min(rows, key=attrgetter(column)), f"; the intervals of {metric} overlap" * bool(others)
    # A training also lowers the perplexity of dense, so a trained model stands beside both.
    modes = dict.fromkeys((NO_FINETUNE, best.dense_mode))
    beside = [_beside(best, dense[mode], column) for mode in modes if mode in dense]
    return best, f"{label} {with_interval(best, column)} ({', '.join(beside) or NONE}{reason})"


def _beside(row: Any, dense: Any, column: str) -> str:
    """Return the value of a dense model in words, and for a perplexity the multiple of it that another model has."""
    of_dense = getattr(dense, column)
    words = f"{name_of(dense)} {number(of_dense, '.3f')}"
    return f"{words}, x {number(getattr(row, column) / of_dense, '.2f')}" if column.startswith(PERPLEXITIES) else words
