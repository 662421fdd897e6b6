"""Say what the verdict table of one model and task shows, in at most three sentences, from the frames of the tables only."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from sparseft.analysis.cells import gain, is_fraction
from sparseft.analysis.comparisons import HIGHER, LOWER, NOT_TOLD_APART, WITHIN
from sparseft.study.grid import DENSE, NO_FINETUNE

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
    return "original model" if mode == NO_FINETUNE else "dense with LoRA"


def listed(words: Iterable[str]) -> str:
    """Return words as a list in a sentence."""
    *others, last = [*words] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def sentences(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> list[str]:
    """Return what one model and task show. `rows` is the verdict table, and `pairs` has the comparisons of its methods."""
    guess = _guessing(rows)
    if guess and rows["verdict"].isna().all():
        return [guess]
    pruned = rows[rows["method"] != DENSE]
    found = [guess or _within(pruned, tolerance), _best(pruned, pairs), _recovered(pruned) or seeds(rows)]
    return [sentence for sentence in found if sentence]


def seeds(rows: pd.DataFrame) -> str:
    """Say what the intervals cover."""
    if (rows["mode"] == NO_FINETUNE).all():
        return "Nothing was trained: the intervals cover the examples."
    if (rows["seeds"] == 1).all():
        return "One seed: the intervals cover the examples, not other trainings."
    return f"{rows['seeds'].max()} seeds per training: the intervals cover other seeds and examples, with these masks."


def mode_verdicts(pairs: pd.DataFrame) -> str:
    """Count the verdicts of the comparisons between modes; empty without one."""
    return f"Modes against each other: {counts}." if (counts := _counted(pairs)) else ""


def _counted(rows: pd.DataFrame) -> str:
    """Return how many rows have each verdict, in words."""
    counts = rows["verdict"].value_counts().sort_index()
    return listed(f"{count} {verdict}" for verdict, count in counts.items())


def _guessing(rows: pd.DataFrame) -> str:
    """Say which dense models only guess, so that no cell is judged by them; empty if none does."""
    unjudged = rows[rows["difference"].notna() & rows["verdict"].isna()]
    models = {(row.study, row.setting, row.dense_mode) for row in unjudged.itertuples()}
    dense = rows[rows["method"] == DENSE].itertuples()
    guessing = [row for row in dense if (row.study, row.setting, row.mode) in models]
    place = " in {}" if rows["study"].nunique() > 1 else ""
    words = [
        f"{name_of(row)}{place.format(row.study)} {with_interval(row, 'value')}, chance {number(row.chance, '.2f')}"
        for row in guessing
    ]
    return f"No better than a guess: {listed(words)}; so no verdict is given against it." if words else ""


def _within(pruned: pd.DataFrame, tolerance: float) -> str:
    """Say at which largest sparsity a method is within the tolerance of dense; or count the verdicts."""
    near = pruned[pruned["verdict"].isin([WITHIN, HIGHER])]
    is_share = pruned["metric"].map(is_fraction).any()
    if is_share and len(near):
        largest = near[near["sparsity"] == near["sparsity"].max()]
        or_higher = " or higher" if (largest["verdict"] == HIGHER).any() else ""
        methods = listed(f"{row.method} {percent(row)} % ({row.where})" for row in largest.itertuples())
        return f"Largest sparsity within {tolerance:g} of dense{or_higher}: {methods}."
    start = f"No pruned model is shown to be within {tolerance:g} of dense" if is_share else "Losses against dense"
    return f"{start}: {counts}." if (counts := _counted(pruned)) else ""


def _best(pruned: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Say which method is better than every other at its sparsity and mode; or which are not told apart."""
    count = pruned["method"].nunique()
    if count < 2:
        return ""
    if pairs.empty:
        return "No method is called the best, because no two were compared (analysis.compare, or faults in the memo)."
    lacks_seeds = pairs["lacks_seeds"].astype(bool)
    single, pairs = pairs[lacks_seeds], pairs[~lacks_seeds]
    best: dict[str, dict[str, list[str]]] = {}
    ties: dict[str, dict[str, list[str]]] = {}
    open_pairs = [pairs[:0]]
    for (where, sparsity), compared in pairs.groupby(["where", "sparsity"], sort=False):
        methods = pruned[(pruned["where"] == where) & (pruned["sparsity"] == sparsity)]["method"]
        words, leaders = _outcome(list(methods), compared)
        (best if len(leaders) == 1 else ties).setdefault(words, {}).setdefault(where, []).append(str(sparsity))
        among_leaders = compared[["method", "against_method"]].isin(leaders).all(axis=1)
        open_pairs.append(compared[among_leaders & (compared["verdict"] == NOT_TOLD_APART)])
    parts = [f"{words} {_places(places)}" for words, places in ties.items()]
    if len(ties) > 1:
        parts = ["elsewhere no method is better than every other" if best else "no method is better than every other"]
    winners = "; ".join(f"{words} {_places(places)}" for words, places in best.items())
    parts = ([f"Best of {count} methods: {winners}"] if best else []) + parts
    text = "; ".join(parts) + _widest(pd.concat(open_pairs))
    if len(single):
        modes = listed(single["where"].unique())
        text += f"{'; w' if text else 'W'}ith one seed no methods are told apart in {modes}"
    return text + _unequal(pruned) + "."


def _outcome(methods: list[str], pairs: pd.DataFrame) -> tuple[str, list[str]]:
    """Return which methods of one sparsity and mode may be the best, in words and by name.

    A method is the best if it is better than every other by a comparison of its own."""
    better = HIGHER if gain(pairs["metric"].iloc[0]) > 0 else LOWER
    told_apart = pairs[pairs["verdict"].isin([HIGHER, LOWER])]
    beaten = {
        (pair.method, pair.against_method) if pair.verdict == better else (pair.against_method, pair.method)
        for pair in told_apart.itertuples()
    }
    compared = [method for method in methods if method in {*pairs["method"], *pairs["against_method"]}]
    rivals = {method: [m for m in compared if m != method and (method, m) not in beaten] for method in compared}
    unbeaten = [m for m in compared if not any((other, m) in beaten for other in compared)]
    if len(unbeaten) > 1:
        return f"{listed(unbeaten)} are not told apart", unbeaten
    first = unbeaten[0]
    return f"{first} is not told apart from {listed(rivals[first])}" if rivals[first] else first, [
        first,
        *rivals[first],
    ]


def _places(places: dict[str, list[str]]) -> str:
    """Return sparsities by mode in words. Modes of the same sparsities stand together."""
    modes: dict[str, list[str]] = {}
    for where, sparsities in places.items():
        modes.setdefault(listed(sparsities), []).append(where)
    return "at " + listed(f"{sparsities} % ({', '.join(names)})" for sparsities, names in modes.items())


def _widest(pairs: pd.DataFrame) -> str:
    """Return the widest interval of pairs that are not told apart, and the number of comparisons; empty without a pair."""
    if pairs.empty:
        return ""
    widest = pairs.iloc[(pairs["difference_high"] - pairs["difference_low"]).argmax()]
    ends = f"[{widest['difference_low']:+.3f}, {widest['difference_high']:+.3f}]"
    return f" (widest interval of a difference {ends}; {widest['comparisons']} comparisons)"


def _unequal(pruned: pd.DataFrame) -> str:
    """Say which sparsities were not reached, because methods are compared at the requested one."""
    missed = pruned[pruned["reached_sparsity"].round(1) != pruned["sparsity"]]
    names = [f"{row.method} {percent(row)} %" for row in missed.drop_duplicates(["method", "sparsity"]).itertuples()]
    shown = names if len(names) <= NAMED else [*names[:NAMED], "others"]
    return f"; reached sparsities differ: {listed(shown)}" if names else ""


def _recovered(pruned: pd.DataFrame) -> str:
    """Say how much of the gap to dense fine-tuning closed, where its interval is bounded; for many cells the extremes."""
    known = pruned[pruned[["recovered_low", "recovered_high"]].notna().all(axis=1)].sort_values("recovered_share")
    if known.empty:
        return ""
    is_long, has_one_mode = len(known) > NAMED, known["where"].nunique() == 1
    cases = [
        f"{100 * row.recovered_share:.0f} % [{100 * row.recovered_low:.0f}, {100 * row.recovered_high:.0f}]"
        f" ({row.method} {percent(row)} %{'' if has_one_mode else f', {row.where}'})"
        for row in (known.iloc[[0, -1]] if is_long else known).itertuples()
    ]
    goals = listed(dense_name(mode) for mode in known["dense_mode"].unique())
    tuning = known["where"].iloc[0] if has_one_mode else "fine-tuning"
    return f"Of the gap between pruned only and {goals}, {tuning} closed {'between ' * is_long}{listed(cases)}."
