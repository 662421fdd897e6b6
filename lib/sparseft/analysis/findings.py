"""Say in plain English what one model shows on one task in one setting.

`headline` sums it up in at most four sentences. `findings` has every comparison and every curve. A sentence gives a difference
only if comparisons.py calls it significant. "Not significant" does not mean "equal". A run with a fault supports no sentence.
"""

import math
from collections.abc import Iterator

import pandas as pd

from sparseft.analysis import tuning_text
from sparseft.analysis.claims import Claim, Results, claims, guess_level
from sparseft.analysis.comparisons import LOSS, STATISTICS
from sparseft.analysis.derived import Derived
from sparseft.analysis.headlines import is_loss
from sparseft.analysis.sentences import Sentences, guessing, listed_sparsities
from sparseft.analysis.statistics import BEYOND, WITHIN
from sparseft.analysis.tables import NOTHING_LOST, asked_and_reached
from sparseft.analysis.texts import FRONTS, NONE, against, difference
from sparseft.analysis.tradeoffs import comparable_speeds
from sparseft.study.grid import NO_FINETUNE

# What every page says where headline and findings return nothing.
NO_CONCLUSION = (
    "Every result here contains a run with a fault, or a training that ended early, so no conclusion is drawn."
    " correctness_memo.md names them."
)
# The last finding of a task whose metric is a loss.
NO_VERDICT = "A loss has no verdict, because the tolerance is a fraction and a loss is in nats per token."
# What is said where two modes were compared with one seed.
ONE_SEED = "one seed, which cannot show the better mode"
MOST_SENTENCES = 4
# A sentence of more numbers would not be read.
MOST_EXAMPLES = 4


def headline(derived: Derived, tolerance: float) -> list[str]:
    """Return at most four sentences that sum up one model on one task in one setting."""
    if derived.cells.empty:
        return []
    results = Results(derived)
    sentences = Sentences(results, derived.cells.iloc[0]["metric"], tolerance)
    if not results.methods:
        return sentences.dense_only()
    opening = sentences.opening()
    control = sentences.control()
    groups = _groups(claims(results), MOST_SENTENCES - len(opening) - len(control))
    text = opening + [sentences.claim(group, first=group is groups[0]) for group in groups]
    if len(text) <= MOST_SENTENCES:
        has_room = len(text) + len(control) < MOST_SENTENCES
        return [*text, *(sentences.recovered() if has_room else []), *control][:MOST_SENTENCES]
    # The last sentence names what the others leave out.
    first_omitted = MOST_SENTENCES - 1 - len(opening)
    omitted = [claim for group in groups[first_omitted:] for claim in group]
    return [*text[: MOST_SENTENCES - 1], f"The table also has {listed_sparsities(omitted)}."]


def findings(derived: Derived, tolerance: float) -> list[str]:
    """Return a sentence for every comparison and every curve of one model on one task in one setting."""
    # If the headline is a loss, its findings are those of the losses.
    losses = [] if is_loss_place(derived) else loss_findings(derived)
    return [*value_findings(derived, tolerance), *losses, *_fronts(derived.best)]


def overlaps(runs: pd.DataFrame) -> list[str]:
    """Return a sentence on the evaluated data that also occur in other data of the study; nothing if none do.

    A share is the largest one of the runs of a task."""
    columns = [name for name in runs if name.endswith("_overlap")]
    largest = runs[runs["in_study"]].groupby("task", sort=False)[columns].max().stack()
    shares = [f"{task} {name} {100 * share:.3g} %" for (task, name), share in largest[largest > 0].items()]
    return [f"Shares that also occur in other data of the study: {', '.join(shares)}."] if shares else []


def is_loss_place(derived: Derived) -> bool:
    """Return whether the metric of one model, task and setting is a loss."""
    return bool(len(derived.cells)) and is_loss(derived.cells.iloc[0]["metric"])


def value_findings(derived: Derived, tolerance: float) -> list[str]:
    """Return the sentences about the metric."""
    every = derived.comparisons
    if is_loss_place(derived):
        no_verdict = [NO_VERDICT] if len(every) else []
        return [*_dense(derived.cells), *_compared(every, "losses", derived.budget), *no_verdict]
    values = every[every["comparison"] != "dense"]
    return [*_dense(derived.cells), *_curves(derived, tolerance), *_compared(values, "values", derived.budget)]


def loss_findings(derived: Derived) -> list[str]:
    """Return the sentences about the losses, in nats per answer token."""
    outcomes = [*STATISTICS, "significant"]
    losses = derived.comparisons.drop(columns=outcomes).rename(columns=lambda name: name.removeprefix(LOSS))
    return list(_compared(losses, "losses", derived.budget))


def explain_verdict(verdict: str | None, to_dense: float, examples: int) -> str:
    """Return what a verdict says of a loss above the tolerance; "-" if there is no verdict."""
    if pd.isna(verdict):
        return NONE
    if verdict == WITHIN:
        return "excluded"
    if verdict == BEYOND:
        return "shown"
    return f"{_side(to_dense)} here; {examples} examples cannot exclude it"


def _side(to_dense: float) -> str:
    """Return on which side of the dense model a value is."""
    if abs(to_dense) < NOTHING_LOST:
        return "equal"
    return "higher" if to_dense > 0 else "lower"


def _groups(every_claim: list[Claim], room: int) -> list[list[Claim]]:
    """Return the claims in groups with equal claims. If these are more than `room`, group by outcome instead."""
    by_kind: dict[tuple, list[Claim]] = {}
    by_outcome: dict[tuple, list[Claim]] = {}
    for claim in every_claim:
        by_kind.setdefault(claim.kind, []).append(claim)
        by_outcome.setdefault(claim.outcome, []).append(claim)
    return list((by_kind if len(by_kind) <= room else by_outcome).values())


def _dense(cells: pd.DataFrame) -> Iterator[str]:
    """Say what the dense models score, and how far this is from guessing."""
    sound = cells[(cells["sparsity"] == 0) & (cells["n_sound"] == cells["n"])]
    for cell in sound.itertuples():
        name = "without fine-tuning" if cell.mode == NO_FINETUNE else "with LoRA"
        error = cell.standard_error
        if is_loss(cell.metric):
            yield f"The dense model {name} has a loss of {cell.value_mean:.3f} ± {error:.3f} nats per token."
            continue
        away = (cell.value_mean - guess_level(cell)) / error if error else 0
        side = "above" if away >= 0 else "below"
        distance = f", {abs(away):.1f} standard errors {side} {guessing(cell)}" if error else ""
        yield f"The dense model {name} scores {cell.value_mean:.3f} ± {error:.3f}{distance}."


def _curves(derived: Derived, tolerance: float) -> Iterator[str]:
    """Say for each mode up to which sparsity a loss above the tolerance is excluded, and what the next point shows."""
    judged = derived.points[derived.points["verdict"].notna() & (derived.points["sparsity"] > 0)]
    largest = derived.best[derived.best["largest_within"]].set_index(["method", "mode"])["reached_sparsity"]
    for mode, curves in judged.groupby("mode", sort=False):
        parts = []
        for method, curve in curves.groupby("method", sort=False):
            reached = largest.get((method, mode), -1)
            parts.append(f"{method} {_curve(curve.sort_values('reached_sparsity'), reached, f'{tolerance:g}')}")
        yield f"Against the dense model in mode {mode}: {'; '.join(parts)}."


def _curve(curve: pd.DataFrame, reached: float, tolerance: str) -> str:
    """Return what one curve says up to the sparsity `reached`, and at the point after it."""
    parts = []
    for row in curve[curve["reached_sparsity"] == reached].tail(1).itertuples():
        parts.append(f"loses at most {tolerance} up to {asked_and_reached(row)} % ({difference(row)})")
    for row in curve[curve["reached_sparsity"] > reached].head(1).itertuples():
        parts.append(f"{_loss(row, tolerance)} ({difference(row)})")
    return " and ".join(parts)


def _loss(row: tuple, tolerance: str) -> str:
    """Return the verdict on one point as a clause."""
    place = f"at {asked_and_reached(row)} %"
    if row.verdict == WITHIN:
        return f"loses at most {tolerance} {place}"
    if row.verdict == BEYOND:
        return f"loses more than {tolerance} {place}"
    return f"is {_side(row.difference_to_dense)} {place}, where {row.examples} examples cannot exclude a loss above {tolerance}"


def _compared(comparisons: pd.DataFrame, what: str, budget: pd.DataFrame) -> Iterator[str]:
    """Say how many differences are significant, and give at most a few of them with their numbers.

    Say over how many trainings the cells were tuned, and that one seed cannot show the better mode."""
    for (kind, mode), rows in comparisons.groupby(["comparison", "mode"], sort=False):
        tested = rows[rows["n"] > 0]
        significant = tested[tested["significant"].astype(bool)]
        verb = "differs" if len(significant) == 1 else "differ"
        count = f"{len(significant) or 'none'} of {len(tested)} {what} {verb} significantly"
        untested = len(rows) - len(tested)
        exception = f"; {untested} could not be compared in every seed" if untested else ""
        notes = [tuning_text.words(rows, budget)]
        if kind == "modes" and (tested["n"] == 1).any():
            notes.append(ONE_SEED)
        notes = "; ".join(note for note in notes if note)
        other = f"{against(kind, mode)} ({notes})" if notes else against(kind, mode)
        yield f"In mode {mode}, against {other}, {count}{_examples(significant)}{exception}."


def _examples(significant: pd.DataFrame) -> str:
    """Return the clause with the numbers of a few significant differences; empty if there are none."""
    if significant.empty:
        return ""
    few = significant[significant["sparsity"].isin(_few(significant["sparsity"]))]
    parts = [
        f"{method} " + ", ".join(f"{difference(row)} at {_against(row)}" for row in rows.itertuples())
        for method, rows in few.groupby("method", sort=False)
    ]
    opening = "" if len(few) == len(significant) else ", for example"
    return f"{opening}: {'; '.join(parts)}"


def _fronts(best: pd.DataFrame) -> Iterator[str]:
    """Name the points that no other point beats in value and sparsity, or in value and training speed."""
    by_sparsity = best[best["best_for_sparsity"]]
    if len(by_sparsity):
        yield _front(by_sparsity, FRONTS["best_for_sparsity"])
    for trained, rows in comparable_speeds(best[best["best_for_speed"]]):
        yield _front(rows, f"{FRONTS['best_for_speed']} on {trained}")


def _front(points: pd.DataFrame, respect: str) -> str:
    """Return the sentence on the points that no other point beats in value and in `respect`."""
    names = [f"{row.method} {asked_and_reached(row)} % {row.mode} {row.value:.3f}" for row in points.itertuples()]
    return f"No point beats these in both value and {respect}: {'; '.join(names)}."


def _against(row: tuple) -> str:
    """Return the sparsity of a comparison, with both sparsities if the two masks reached different ones."""
    ours, theirs = row.reached_sparsity, row.against_reached_sparsity
    if row.comparison == "dense" or abs(ours - theirs) < 0.001:
        return f"{asked_and_reached(row)} %"
    return f"{row.sparsity} % (reached {100 * ours:.1f} % against {100 * theirs:.1f} %)"


def _few(sparsities: pd.Series) -> list[int]:
    """Return at most MOST_EXAMPLES sparsities, evenly spread and with the largest. 0 is one only if there is no other."""
    descending = sorted(set(sparsities) - {0}, reverse=True) or [0]
    step = max(1, math.ceil(len(descending) / MOST_EXAMPLES))
    return descending[::step]
