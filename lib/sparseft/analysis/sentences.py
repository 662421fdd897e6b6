"""Answer what survives, which method is the best, and what fine-tuning wins back, from the frames of the tables only.

There are at most four sentences per model and task. Each names the measure that decided: the first one with a verdict
(comparisons.decided). The last says what intervals and verdicts are about."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from sparseft.analysis.cells import is_fraction
from sparseft.analysis.comparisons import EQUAL, GUESS, HIGHER, NOT_TOLD_APART, VALUE, WITHIN, decided
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, NO_FINETUNE
from sparseft.tasks import get_metric

# The text of a missing value.
NONE = "-"
# A sentence names at most this many single cases.
NAMED = 3


def number(value: float | None, form: str) -> str:
    """Return a number in the format `form`; "-" if it is missing."""
    if pd.isna(value):
        return NONE
    text = format(value, form)
    # Rounding may leave a minus before a zero.
    return text.replace("-", "+" if form.startswith("+") else "", 1) if set(text) <= set("-0.") else text


def with_interval(row: Any, column: str, form: str = ".3f") -> str:
    """Return a value of a row with its 95 % interval in brackets."""
    value, low, high = (getattr(row, f"{column}{end}", None) for end in ("", "_low", "_high"))
    return number(value, form) + ("" if pd.isna(low) else f" [{number(low, form)}, {number(high, form)}]")


def percent(row: Any, prefix: str = "") -> str:
    """Return the sparsity of a row in percent; the one that was reached in parentheses if it differs at one decimal."""
    asked, reached = getattr(row, f"{prefix}sparsity"), getattr(row, f"{prefix}reached_sparsity")
    return str(asked) if round(reached, 1) == asked else f"{asked} ({reached:.1f})"


def name_of(row: Any, prefix: str = "") -> str:
    """Return what the pages call the method of a row. The dense runs are two models with names of their own."""
    method, mode = getattr(row, f"{prefix}method"), getattr(row, f"{prefix}mode")
    return dense_name(mode) if method == DENSE else method


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
    """Return what one model and task show. `rows` is the verdict table, and `pairs` has all comparisons, by all
    measures."""
    pruned, pairs = rows[rows["method"] != DENSE], pairs[pairs["method"] != DENSE]
    dense, methods, untuned = (pairs[pairs["question"] == name] for name in ("dense", "methods", "untuned"))
    won_back = counted(untuned, "Fine-tuned against not fine-tuned: ")
    found = [_survived(rows, dense, tolerance), _best(pruned, methods, tolerance), won_back, _seeds(rows)]
    return [sentence for sentence in found if sentence]


def _seeds(rows: pd.DataFrame) -> str:
    """Say what intervals and verdicts are about."""
    if (rows["mode"] == NO_FINETUNE).all():
        return "Nothing was trained: intervals and verdicts cover other examples."
    if (rows["seeds"] == 1).all():
        return "One seed: intervals and verdicts are about these trained models; another seed may give others."
    seeds = rows["seeds"].max()
    return f"{seeds} seeds per training: intervals and verdicts cover other seeds and examples, with these masks."


def counted(pairs: pd.DataFrame, start: str) -> str:
    """Count the pairs of cells by what decided about them; empty without a pair."""
    words = [_decision(row) for row in decided(pairs).itertuples()]
    counts = pd.Series(words, dtype=object).value_counts().sort_index()
    return f"{start}{listed(f'{count} {word}' for word, count in counts.items())}." if words else ""


def _decision(row: Any) -> str:
    """Return what decided about a pair of cells; not told apart if the value is not judged and no other measure has a
    verdict."""
    if pd.isna(row.better):
        return row.verdict.replace(GUESS, NOT_TOLD_APART)
    return f"{'better' if row.better else 'worse'} by {measure_name(row)}"


def _guessing(rows: pd.DataFrame) -> str:
    """Say which dense models only guess, so that no value is judged by them; empty if none does."""
    unjudged = rows[rows["verdict"] == GUESS]
    guessing = rows[(rows["method"] == DENSE) & rows["mode"].isin(unjudged["dense_mode"])]
    words = [
        f"{name_of(row)} {with_interval(row, 'value')}, chance {number(row.chance, '.2f')}"
        for row in guessing.itertuples()
    ]
    return f"No better than a guess: {listed(words)}. " if words else ""


def _survived(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Say at which largest sparsity a method is within the tolerance of dense; or count what decided about the pruned
    models."""
    near = rows[rows["verdict"].isin([WITHIN, HIGHER])]
    is_share, guess = rows["metric"].map(is_fraction).any(), _guessing(rows)
    if is_share and len(near):
        largest = near[near["sparsity"] == near["sparsity"].max()]
        or_higher = " or higher" if (largest["verdict"] == HIGHER).any() else ""
        methods = listed(f"{row.method} {percent(row)} % ({row.mode})" for row in largest.itertuples())
        return f"{guess}Largest sparsity within {tolerance:g} of dense{or_higher}: {methods}."
    none_near = "" if guess or not is_share else f"No pruned model is shown to be within {tolerance:g} of dense. "
    counts = counted(pairs, f"{none_near}Against dense, by the first measure that decides: ")
    return guess + counts + _needed(decided(pairs), tolerance)


def _best(pruned: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Say which method is better than every other at its sparsity and mode; or which are not told apart."""
    count = pruned["method"].nunique()
    if count < 2:
        return ""
    if pairs.empty:
        return "No method is called the best, because no two were compared (analysis.compare, or faults in the memo)."
    pairs = decided(pairs)
    best: dict[str, dict[str, list[str]]] = {}
    ties: dict[str, dict[str, list[str]]] = {}
    open_pairs, won_pairs = [pairs[:0]], [pairs[:0]]
    for (mode, sparsity), compared in pairs.groupby(["mode", "sparsity"], sort=False):
        methods = pruned[(pruned["mode"] == mode) & (pruned["sparsity"] == sparsity)]["method"]
        words, leaders = _outcome(list(methods), compared)
        (best if len(leaders) == 1 else ties).setdefault(words, {}).setdefault(mode, []).append(str(sparsity))
        if len(leaders) == 1:
            won_pairs.append(compared[compared[["method", "against_method"]].isin(leaders).any(axis=1)])
        open_pairs.append(compared[compared[["method", "against_method"]].isin(leaders).all(axis=1)])
    parts = [f"{words} {_places(places)}" for words, places in ties.items()]
    if len(ties) > 2:
        parts = ["elsewhere no method is better than every other" if best else "No method is better than every other"]
    winners = "; ".join(f"{words} {_places(places)}" for words, places in best.items())
    parts = ([f"Best of {count} methods: {winners}{_closest(pd.concat(won_pairs))}"] if best else []) + parts
    return "; ".join(parts) + _unequal(pruned) + "." + _needed(pd.concat(open_pairs), tolerance)


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


def _outcome(methods: list[str], pairs: pd.DataFrame) -> tuple[str, list[str]]:
    """Return which methods of one sparsity and mode may be the best, in words and by name.

    A method is the best if it is better than every other by a comparison of its own. `pairs` has what decided about
    each two."""
    told_apart = pairs[pairs["better"].notna()]
    beaten = {
        (pair.method, pair.against_method)[:: 1 if pair.better else -1]: measure_name(pair)
        for pair in told_apart.itertuples()
    }
    compared = [method for method in methods if method in {*pairs["method"], *pairs["against_method"]}]
    rivals = {method: [m for m in compared if m != method and (method, m) not in beaten] for method in compared}
    unbeaten = [m for m in compared if not any((other, m) in beaten for other in compared)]
    if not unbeaten:
        return "each method is worse than another one by some measure", compared
    first = unbeaten[0]
    leaders = unbeaten if len(unbeaten) > 1 else [first, *rivals[first]]
    between = pairs[pairs[["method", "against_method"]].isin(leaders).all(axis=1)]
    words = "equal here" if len(between) and between["verdict"].eq(EQUAL).all() else "not told apart"
    if len(unbeaten) > 1:
        return f"{listed(unbeaten)} are {words}", leaders
    if rivals[first]:
        return f"{first} is not told apart from {listed(rivals[first])}", leaders
    measures = dict.fromkeys(beaten[first, other] for other in compared if other != first)
    return f"{first}, by {listed(measures)},", leaders


def _places(places: dict[str, list[str]]) -> str:
    """Return sparsities by mode in words. Modes of the same sparsities stand together."""
    modes: dict[str, list[str]] = {}
    for mode, sparsities in places.items():
        modes.setdefault(listed(sparsities), []).append(mode)
    return "at " + listed(f"{sparsities} % ({', '.join(names)})" for sparsities, names in modes.items())


def _unequal(pruned: pd.DataFrame) -> str:
    """Say which sparsities were not reached, because methods are compared at the requested one."""
    missed = pruned[pruned["reached_sparsity"].round(1) != pruned["sparsity"]]
    names = [f"{row.method} {percent(row)} %" for row in missed.drop_duplicates(["method", "sparsity"]).itertuples()]
    shown = names if len(names) <= NAMED else [*names[:NAMED], "others"]
    return f"; reached sparsities differ: {listed(shown)}" if names else ""
