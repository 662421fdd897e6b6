"""Answer which method is the best, what fine-tuning wins back, and how near to dense it comes, from the frames of the
tables only.

The ranking has a number per method, and the verdict of who leads is that of the first measure that tells two apart
(comparisons.decided). What cannot be decided is one sentence, the last."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from sparseft.analysis.cells import gain
from sparseft.analysis.comparisons import EQUAL, GUESS, HIGHER, NOT_TOLD_APART, WITHIN
from sparseft.analysis.study import VALUE
from sparseft.axes.grid import DENSE, NO_FINETUNE
from sparseft.axes.methods import sort_key
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import get_metric
from sparseft.axes.tasks.metrics import LOSS
from sparseft.data.settings import DIVERGENCE

# The text of a missing value.
NONE = "-"
# A sentence names at most this many single cases.
NAMED = 3
# A ranking has numbers, and a figure a row per method, if there are at most this many sparsities.
FEW = 2
# Two ways to compute one loss differ by less, in nats.
ROUNDED = 1e-6
# The caption of the comparisons of a question, and what a sentence calls its pairs.
QUESTIONS = {
    "dense": ("Against dense", "with dense"),
    "original": (
        "Models that are made from a pruned base, against the original dense model",
        "with the original dense model",
    ),
    "methods": ("Methods against each other", "of methods"),
    "against": ("Methods against one of them", "with one method"),
    "modes": ("Modes against each other", "of modes"),
    "untuned": ("Fine-tuned against not fine-tuned", "of trained with untrained models"),
}


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


def pruned_name(row: Any) -> str:
    """Return the method and the sparsity of a pruned cell."""
    return f"{row.method} {percent(row)} %"


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


def ranked_by(rows: pd.DataFrame) -> str:
    """Return the column by which the models of one model and task are ranked.

    It is the value, or the loss beside a dense model that only guesses. On windows that the dense model has sampled, a
    loss is that of the dense model and the divergence, so the divergence ranks as the loss does."""
    original = rows.loc[(rows["method"] == DENSE) & (rows["mode"] == NO_FINETUNE), "eval_loss"]
    if DIVERGENCE in rows and len(original):
        rest = rows["eval_loss"] - rows[DIVERGENCE] - original.iloc[0]
        # A missing divergence makes it no number, which is not smaller.
        if rest.abs().max(skipna=False) < ROUNDED:
            return DIVERGENCE
    return "eval_loss" if (rows["verdict"] == GUESS).any() else VALUE


class Ranking(NamedTuple):
    """Say by what models are ranked: the column, its name, 1 if more is better or else -1, the format, and what the
    tables of the models are about."""

    column: str
    label: str
    sign: int
    form: str
    title: str

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Ranking":
        """Return the ranking of one model and task."""
        column, metric = ranked_by(rows), rows["metric"].iloc[0]
        label = get_metric(metric).label
        if column == VALUE and metric != LOSS.name:
            return cls(column, label, gain(metric), ".3f", label)
        if column == DIVERGENCE:
            return cls(column, "divergence from dense, nats per token", -1, ".2f", "divergence from dense")
        return cls(column, LOSS.name, -1, ".2f", label)


def sentences(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> list[str]:
    """Return what one model and task show: the ranking of the methods before and after training, and how near the best
    is to dense. `rows` is the verdict table, and `pairs` has what decided about each two cells
    (comparisons.decided)."""
    ranking, pruned = Ranking.of(rows), rows[rows["method"] != DENSE]
    found = []
    for mode, of_mode in pruned.groupby("mode", sort=False):
        places = []
        for sparsity, here in of_mode.groupby("sparsity"):
            judged = pairs[(pairs["mode"] == mode) & (pairs["sparsity"] == sparsity)]
            texts = _ranked(here, judged, pruned[pruned["sparsity"] == sparsity], ranking)
            # Of many sparsities, only the leaders are named.
            places.append(f"at {sparsity} %, {'; '.join(texts[: None if of_mode['sparsity'].nunique() <= FEW else 1])}")
        found.append(f"{when(mode).capitalize()} ({ranking.label}): {'. '.join(places)}.")
    return list(filter(None, [*found, _nearest(rows, ranking, tolerance)]))


def when(mode: str) -> str:
    """Return a mode in the words of a ranking."""
    return "untrained" if mode == NO_FINETUNE else f"after {mode}"


def _ranked(here: pd.DataFrame, pairs: pd.DataFrame, pruned: pd.DataFrame, ranking: Ranking) -> list[str]:
    """Return the methods at one sparsity and mode with their numbers, the leaders first, in one text.

    Behind a trained one stands the number before its training, with the verdict if it is not better. `pairs` has what
    decided about two cells here, and `pruned` the cells of this sparsity."""
    methods, untuned = (pairs[pairs["question"] == name] for name in ("methods", "untuned"))
    leaders, words = _outcome(methods, ranking) if len(methods) else ([], "")
    before = pruned[pruned["mode"] == NO_FINETUNE].set_index("method")[ranking.column]
    verdicts = {pair.method: _verdict(pair) for pair in untuned.itertuples()}
    texts = {}
    for row in here.sort_values(ranking.column, ascending=ranking.sign < 0, kind="stable").to_dict("records"):
        name = row["method"]
        from_ = [f"from {number(before[name], ranking.form)}"] if row["mode"] != NO_FINETUNE and name in before else []
        from_ += [verdict for verdict in [verdicts.get(name, "better")] if verdict != "better"]
        texts[name] = f"{name} {number(row[ranking.column], ranking.form)}" + (
            f" ({', '.join(from_)})" if from_ else ""
        )
    led = [f"{listed(text for name, text in texts.items() if name in leaders)} {words}"] if leaders else []
    unknown = " (not compared)" if len(texts) > 1 and not leaders else ""
    return [*led, *(f"{text}{unknown}" for name, text in texts.items() if name not in leaders)]


def _verdict(pair: Any) -> str:
    """Return what decided about a pair of cells, in words.

    A pair whose value is not judged, and that has no verdict by another measure, is not told apart."""
    if pd.isna(pair.better):
        return pair.verdict.replace(GUESS, NOT_TOLD_APART)
    return "better" if pair.better else f"worse by {measure_name(pair)}"


def _outcome(pairs: pd.DataFrame, ranking: Ranking) -> tuple[list[str], str]:
    """Return which methods of one sparsity and mode lead, and what is said of them.

    A method is the best if it is better than every other by a comparison of its own. `pairs` has what decided about
    each two. The measures are named unless the ranking is by them."""
    # The better and the worse method -> the measure.
    beaten = {
        (pair.method, pair.against_method)[:: 1 if pair.better else -1]: measure_name(pair)
        for pair in pairs.dropna(subset="better").itertuples()
    }
    compared = sorted({*pairs["method"], *pairs["against_method"]}, key=sort_key)
    unbeaten = [name for name in compared if name not in {worse for _, worse in beaten}]
    if not unbeaten:
        return compared, "are each worse than another one by some measure"
    first, *others = unbeaten
    if others:
        verdicts = pairs["verdict"][pairs[["method", "against_method"]].isin(unbeaten).all(axis=1)]
        return unbeaten, f"lead and are {EQUAL if set(verdicts) == {EQUAL} else NOT_TOLD_APART}"
    if rivals := [other for other in compared if other != first and (first, other) not in beaten]:
        return unbeaten, f"leads and is not told apart from {listed(rivals)}"
    measures = dict.fromkeys(beaten[first, other] for other in compared if other != first)
    known = LOSS.name if ranking.column == DIVERGENCE else ranking.label
    return unbeaten, "leads" if [*measures] == [known] else f"leads by {listed(measures)}"


def _nearest(rows: pd.DataFrame, ranking: Ranking, tolerance: float) -> str:
    """Say at which largest sparsity a method is within the tolerance of dense, or else which pruned model is the
    nearest. No value is judged by a dense model that only guesses."""
    guessing = listed(map(dense_name, rows["dense_mode"][rows["verdict"] == GUESS].unique()))
    start = f"No better than a guess: {guessing}. " if guessing else ""
    near = rows[rows["verdict"].isin([WITHIN, HIGHER]) & (rows["metric"] != LOSS.name)]
    if len(near):
        largest = near[near["sparsity"] == near["sparsity"].max()]
        or_higher = " or higher" if HIGHER in set(largest["verdict"]) else ""
        methods = listed(f"{pruned_name(row)} ({row.mode})" for row in largest.itertuples())
        return f"{start}Largest sparsity within {tolerance:g} of dense{or_higher}: {methods}."
    pruned = rows[rows["method"] != DENSE].dropna(subset=ranking.column)
    if pruned.empty:
        return start.strip()
    if not start and ranking.column == VALUE and ranking.label != LOSS.name:
        start = f"No pruned model is shown to be within {tolerance:g} of dense. "
    best = pruned.loc[(ranking.sign * pruned[ranking.column]).idxmax()]
    dense = rows[(rows["method"] == DENSE) & (rows["mode"] == best["dense_mode"])]
    measured = with_interval(best, ranking.column, ranking.form)
    if ranking.column == DIVERGENCE:
        agreeing = 100 * best["same_top_tokens"]
        texts = [f"{measured} nats per token", f"{agreeing:.0f} of 100 tokens chosen as dense does"]
    else:
        texts = [f"{ranking.label} {measured}"]
        texts += [f"{name_of(row)} {with_interval(row, ranking.column, ranking.form)}" for row in dense.itertuples()]
    return f"{start}Nearest to dense by its number: {pruned_name(best)} ({best['mode']}), {', '.join(texts)}."


def undecided(rows: pd.DataFrame, pairs: pd.DataFrame, tolerance: float) -> str:
    """Return in one sentence what the study cannot decide, and what its intervals and verdicts are about."""
    pairs = pairs[pairs["method"] != DENSE]
    is_open = pairs["better"].isna() & pairs["verdict"].isin([NOT_TOLD_APART, GUESS])
    counts = is_open.groupby(pairs["question"], sort=False).agg(["sum", "count"])
    texts = [f"{row.sum} of {row.count} pairs {QUESTIONS[row.Index][1]}" for row in counts.itertuples() if row.sum]
    parts = [f"not told apart: {listed(texts)}"] if texts else []
    few = pairs[is_open & (pairs["verdict"] == NOT_TOLD_APART) & (pairs["rows_needed"] > pairs["examples"])]
    if len(few):
        row = few.loc[few["rows_needed"].idxmax()]
        needed = float(f"{row['rows_needed']:.2g}")
        what = f"to show a difference of {tolerance:g} in {measure_name(row)}"
        parts.append(f"{what}, a study needs about {needed:,.0f} examples; this one has {row['examples']:,}")
    # Methods are compared at the requested sparsity.
    pruned = rows[rows["method"] != DENSE].drop_duplicates(["method", "sparsity"])
    missed = pruned[pruned["reached_sparsity"].round(1) != pruned["sparsity"]]
    names = list(map(pruned_name, missed.itertuples()))
    names[NAMED:] = ["others"] * (len(names) > NAMED)
    parts += [f"reached sparsities differ: {listed(names)}"] if names else []
    seeds = rows["seeds"].max()
    if (rows["mode"] == NO_FINETUNE).all():
        parts.append("nothing was trained: intervals and verdicts cover other examples")
    elif seeds == 1:
        parts.append("with one seed, intervals and verdicts hold for these trained models only")
    else:
        parts.append(
            f"{seeds} seeds per training: intervals and verdicts cover other seeds and examples, with these masks"
        )
    if Ranking.of(rows).column == DIVERGENCE:
        parts.append("the dense model sampled the text, so nothing here is about a task")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."
