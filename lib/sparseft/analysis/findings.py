"""Say in plain English what one model shows on one task in one setting.

`headline` sums it up in at most four sentences. `findings` has every comparison and every curve. A sentence gives a difference
only if comparisons.py calls it significant. "Not significant" does not mean "equal". A run with a fault supports no sentence.
"""

import math
from collections.abc import Iterable, Iterator

import pandas as pd

from sparseft.analysis.claims import (
    EXCLUDED,
    FALL,
    OPEN,
    RISE,
    SAME,
    UNKNOWN,
    Claim,
    Results,
    best_method,
    best_training,
    claims,
    guess_level,
    guesses,
)
from sparseft.analysis.comparisons import CONTROL, LOSS, TOLD
from sparseft.analysis.derived import Derived
from sparseft.analysis.statistics import BEYOND, WITHIN
from sparseft.analysis.tables import NOTHING_LOST, PLAIN_LORA, asked_and_reached
from sparseft.grid import DENSE, NO_FINETUNE

MOST_SENTENCES = 4
MOST_NUMBERS = 3  # that a headline lists; of more it gives the range
METRICS = {"acc": "accuracy", "acc_norm": "accuracy", "exact_match": "the share of right answers", "f1": "F1"}
FRONTS = {"best_for_sparsity": "sparsity", "best_for_speed": "training speed", "largest_within": "largest within"}
_AGAINST = {
    "dense": "the dense model",
    "random": "random pruning",
    "untuned": "no fine-tuning",
    "modes": "sparse_to_dense",
}


def headline(derived: Derived, tolerance: float) -> list[str]:
    """Return at most four sentences that sum up one model on one task in one setting."""
    if derived.cells.empty:
        return []
    results = Results(derived)
    words = _Words(results, derived.cells.iloc[0]["metric"], tolerance)
    if not results.methods:
        return words.dense_only()
    opening = words.opening()
    groups = _groups(claims(results))
    room = MOST_SENTENCES - len(opening)
    told = groups if len(groups) <= room else groups[: room - 1]
    sentences = [*opening, *(words.claim(group, first=group is groups[0]) for group in told)]
    if len(told) < len(groups):
        rest = [claim for group in groups[len(told) :] for claim in group]
        return [*sentences, f"The table has the rest, {_sparsities(rest)}."]
    return [*sentences, *words.control()][:MOST_SENTENCES]


def findings(derived: Derived, tolerance: float) -> list[str]:
    """Return a sentence for every comparison and every curve of one model on one task in one setting."""
    return [*value_findings(derived, tolerance), *loss_findings(derived), *_fronts(derived.best)]


def value_findings(derived: Derived, tolerance: float) -> list[str]:
    """Return the sentences about the metric."""
    values = derived.comparisons[derived.comparisons["comparison"] != "dense"]
    return [*_dense(derived.cells), *_curves(derived, tolerance), *_compared(values, "values")]


def loss_findings(derived: Derived) -> list[str]:
    """Return the sentences about the losses, in nats per answer token."""
    outcomes = [*TOLD, "significant"]
    losses = derived.comparisons.drop(columns=outcomes).rename(columns=lambda name: name.removeprefix(LOSS))
    return list(_compared(losses, "losses"))


def explain_verdict(verdict: str | None, difference: float, examples: int) -> str:
    """Return what a verdict says of a loss above the tolerance; "-" where there is no verdict."""
    if pd.isna(verdict):
        return "-"
    if verdict == WITHIN:
        return "excluded"
    if verdict == BEYOND:
        return "shown"
    return f"{_side(difference)} here; {examples} examples cannot exclude it"


def difference(row: tuple) -> str:
    """Return a difference with the ends of its interval."""
    mean = row.difference if hasattr(row, "difference") else row.difference_to_dense
    return f"{mean:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"


class _Words:
    """Put the claims about one model, task, metric and setting into sentences."""

    def __init__(self, results: Results, metric: str, tolerance: float) -> None:
        self.results = results
        self.metric = METRICS.get(metric, metric)
        self.tolerance = f"{tolerance:g}"
        self.examples = f"{max(cell.examples for cell in results.every_cell)} examples"

    def dense_only(self) -> list[str]:
        """Return the sentence on a study without a sound pruned run; none without a sound dense run."""
        values = {mode: self.results.dense(mode) for mode in (NO_FINETUNE, PLAIN_LORA)}
        names = {NO_FINETUNE: "without fine-tuning", PLAIN_LORA: "with LoRA"}
        told = [f"{_number(cell.value_mean)} {names[mode]}" for mode, cell in values.items() if cell is not None]
        if not told:
            return []
        change = {
            RISE: ", a significant gain",
            FALL: ", a significant loss",
            SAME: f", which {self.examples} cannot tell apart",
            UNKNOWN: "",
        }[self.results.change("untuned", (DENSE, 0, PLAIN_LORA))]
        return [f"The dense model scores {' and '.join(told)}{change}; there is no sound pruned run."]

    def opening(self) -> list[str]:
        """Return the sentence on a dense model that nothing can be compared with; none for a usual one."""
        cells = [self.results.dense(mode) for mode in (NO_FINETUNE, PLAIN_LORA)]
        sound = [cell for cell in cells if cell is not None]
        if not sound:
            there = any(cell.method == DENSE for cell in self.results.every_cell)
            reason = "No dense run is without a fault" if there else "There is no dense run"
            return [f"{reason}, so these runs cannot show what pruning costs."]
        if not guesses(sound[0]):
            return []
        without = "" if sound[0].mode == PLAIN_LORA else " without fine-tuning"
        known = f"The dense model{without} scores {_number(sound[0].value_mean)}, not measurably above {_guessing(sound[0])}"
        if all(guesses(cell) for cell in sound):
            return [f"{known}, so these runs cannot show what pruning costs."]
        return [f"{known}."]

    def claim(self, group: list[Claim], first: bool) -> str:
        """Return the sentence on sparsities of one claim; the first one names the method."""
        claim = group[0]
        place = f"At {_sparsities(group)}"
        pruning = self._method(group, first)
        if claim.pruning == FALL:
            return f"{place} {pruning} lowers {self.metric} from {self._start()} to {_numbers(group, 'untuned')}{self._after_a_fall(group)}."
        if claim.pruning in (RISE, SAME):
            return f"{place} {self._no_fall(group, pruning)}{self._after_no_fall(group)}."
        return f"{place} {self._without_base(group, pruning)}."

    def control(self) -> list[str]:
        """Return the sentence on random pruning beside the best method of each sparsity, in that one's best mode."""
        if self.results.methods == [CONTROL]:
            return []
        outcomes: dict[str, list[tuple]] = {}
        for sparsity in self.results.sparsities:
            row = self._control_row(sparsity)
            if row is not None and row.n:
                kind = SAME if not row.significant else FALL if row.difference > 0 else RISE
                outcomes.setdefault(kind, []).append(row)
        parts = []
        for kind, words in {FALL: "scores lower", SAME: "cannot be told apart", RISE: "scores higher"}.items():
            if kind in outcomes:
                parts.append(f"{words} at {self._control_values(outcomes[kind])}")
        return [f"Random pruning, the control, {' and '.join(parts)}."] if parts else []

    def _control_row(self, sparsity: int) -> tuple | None:
        """Return the comparison with random pruning of the best cell of a sparsity."""
        method = best_method(self.results, sparsity)
        untuned, tuned = (
            self.results.cells.get((method, sparsity, NO_FINETUNE)),
            best_training(self.results, method, sparsity),
        )
        best = max((cell for cell in (untuned, tuned) if cell), key=lambda cell: cell.value_mean)
        return self.results.comparisons.get("random", {}).get((method, sparsity, best.mode))

    def _control_values(self, rows: list[tuple]) -> str:
        """Return the sparsities, and the values of random pruning against those of the best method."""
        places = [(row.method, int(row.sparsity), row.mode) for row in rows]
        ours = [self.results.cells[place].value_mean for place in places]
        random = [self.results.cells[CONTROL, sparsity, mode].value_mean for _, sparsity, mode in places]
        where = _listed([str(row.sparsity) for row in rows])
        return f"{where} % ({_range(random)} against {_range(ours)})"

    def _method(self, group: list[Claim], first: bool) -> str:
        """Return the name of what prunes: the method, or the best of several."""
        count = len(self.results.methods)
        names = {claim.method for claim in group}
        if count == 1:
            return f"{group[0].method} pruning" if first else "pruning"
        if len(names) == 1:
            return f"the best of {count} methods ({group[0].method})"
        named = ", ".join(f"{claim.method} at {claim.sparsity} %" for claim in group)
        return f"the best of {count} methods ({named})"

    def _start(self, mode: str = NO_FINETUNE) -> str:
        return _number(self.results.dense(mode).value_mean)

    def _after_a_fall(self, group: list[Claim]) -> str:
        """Return what fine-tuning does to models that pruning made worse."""
        claim, tuned = group[0], _numbers(group, "tuned")
        guessing = _guessing(next(iter(self.results.cells.values())))
        if claim.hopeless:
            if claim.tuned is None:
                return f", not measurably above {guessing}"
            return f" and nothing helps: no run there is measurably above {guessing}"
        if claim.tuning == RISE:
            verb = "raises it to" if claim.remaining in (FALL, UNKNOWN) else "brings it back to"
            return f", and {_lora(group)} {verb} {tuned}{self._remaining(claim)}"
        if claim.tuning == FALL:
            return f", and {_lora(group)} lowers it to {tuned}"
        if claim.tuning == SAME:
            return f", and {_lora(group)} wins back nothing measurable ({tuned})"
        return "" if claim.tuned is None else f"; {tuned} after {_lora(group)} could not be compared"

    def _no_fall(self, group: list[Claim], pruning: str) -> str:
        """Return what is said of models that pruning does not make measurably worse."""
        claim = group[0]
        values = f"{_numbers(group, 'untuned')} against {self._start()}"
        if claim.pruning == RISE:
            return f"{pruning} raises {self.metric} from {self._start()} to {_numbers(group, 'untuned')}"
        if not claim.costs_nothing:
            return f"{self.metric} after {pruning} is {values}, which {self.examples} cannot tell apart"
        return f"{pruning} costs nothing measurable ({self.metric} {values}{self._bound(claim.loss)})"

    def _after_no_fall(self, group: list[Claim]) -> str:
        """Return what fine-tuning does to models that pruning did not make measurably worse."""
        claim, tuned = group[0], _numbers(group, "tuned")
        if claim.tuning == RISE:
            return f", and {_lora(group)} raises it to {tuned}{self._remaining(claim)}"
        if claim.tuning == FALL:
            return f", and {_lora(group)} lowers it to {tuned}{self._remaining(claim)}"
        if claim.remaining == FALL:
            return f", but with {_lora(group)} it reaches only {tuned}{self._remaining(claim)}"
        return ""

    def _remaining(self, claim: Claim) -> str:
        """Return how fine-tuned pruned models compare with the fine-tuned dense one."""
        if claim.remaining == UNKNOWN:
            return ""
        shown = {FALL: ", significantly higher", RISE: ", significantly lower", SAME: "; no significant difference"}
        words = shown[claim.remaining]
        if claim.remaining == SAME and claim.tuned_loss == EXCLUDED:
            words = f"; a loss above {self.tolerance} is excluded"
        return f" (dense model with LoRA: {self._start(PLAIN_LORA)}{words})"

    def _without_base(self, group: list[Claim], pruning: str) -> str:
        """Return what is said of pruned models that no untrained dense model can be compared with."""
        claim = group[0]
        untuned, tuned = _numbers(group, "untuned"), _numbers(group, "tuned")
        if claim.remaining != UNKNOWN:
            return f"{self.metric} after {pruning} and {_lora(group)} is {tuned}{self._remaining(claim)}"
        change = {
            RISE: f", and {_lora(group)} raises it to {tuned}",
            FALL: f", and {_lora(group)} lowers it to {tuned}",
            SAME: f", and {_lora(group)} changes nothing measurable ({tuned})",
            UNKNOWN: "" if claim.tuned is None else f" and with {_lora(group)} {tuned}; no comparison is possible",
        }[claim.tuning]
        if claim.untuned is None:
            return f"{self.metric} after {pruning} and {_lora(group)} is {tuned}; no comparison is possible"
        return f"{self.metric} after {pruning} is {untuned}{change}"

    def _bound(self, loss: str | None) -> str:
        """Return what the interval says of a loss above the tolerance."""
        if loss == EXCLUDED:
            return f"; a loss above {self.tolerance} is excluded"
        return f"; {self.examples} cannot exclude a loss above {self.tolerance}" if loss == OPEN else ""


def _side(difference: float) -> str:
    """Return on which side of the dense model a value is."""
    if abs(difference) < NOTHING_LOST:
        return "equal"
    return "higher" if difference > 0 else "lower"


def _groups(found: Iterable[Claim]) -> list[list[Claim]]:
    """Return the sparsities of one claim together, in the order of the smallest."""
    groups: dict[tuple, list[Claim]] = {}
    for claim in found:
        groups.setdefault(claim.kind, []).append(claim)
    return list(groups.values())


def _sparsities(group: list[Claim]) -> str:
    return f"{_listed([claim.sparsity for claim in group])} %"


def _lora(group: list[Claim]) -> str:
    names = {claim.lora for claim in group}
    return group[0].lora if len(names) == 1 else "LoRA in its better mode"


def _numbers(group: list[Claim], name: str) -> str:
    """Return the values of a group as text; empty if it has none."""
    values = [getattr(claim, name) for claim in group]
    return "" if None in values else _range(values)


def _range(values: list[float]) -> str:
    """Return one value per sparsity, or the range of many."""
    if len(values) > MOST_NUMBERS:
        return f"between {_number(min(values))} and {_number(max(values))}"
    words = [_number(value) for value in values]
    return words[0] if len(set(words)) == 1 else _listed(words)


def _number(value: float) -> str:
    """Return a value with two decimals; with three where two would make 0 or 1 of it."""
    text = f"{value:.2f}"
    return f"{value:.3f}" if text in ("0.00", "1.00") and value not in (0, 1) else text


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _guessing(cell: tuple) -> str:
    """Return the name of what guessing scores."""
    level = guess_level(cell)
    return f"guessing ({level:.2f})" if level == cell.chance else f"one answer to all ({level:.3f})"


def percents(table: pd.DataFrame) -> list[str]:
    """Return the sparsities of the rows as text."""
    return [asked_and_reached(row) for row in table.itertuples()]


def _dense(cells: pd.DataFrame) -> Iterator[str]:
    """Say what the dense models score, and how far this is from guessing."""
    sound = cells[(cells["sparsity"] == 0) & (cells["n_sound"] == cells["n"])]
    for cell in sound.itertuples():
        name = "without fine-tuning" if cell.mode == NO_FINETUNE else "with LoRA"
        error = cell.standard_error
        away = (cell.value_mean - guess_level(cell)) / error if error else 0
        side = "above" if away >= 0 else "below"
        distance = f", {abs(away):.1f} standard errors {side} {_guessing(cell)}" if error else ""
        yield f"The dense model {name} scores {cell.value_mean:.3f} ± {error:.3f}{distance}."


def _curves(derived: Derived, tolerance: float) -> Iterator[str]:
    """Say by mode up to which sparsity a loss above the tolerance is excluded, and what the next point shows."""
    judged = derived.points[derived.points["verdict"].notna() & (derived.points["sparsity"] > 0)]
    largest = derived.best[derived.best["largest_within"]].set_index(["method", "mode"])["reached_sparsity"]
    for mode, curves in judged.groupby("mode", sort=False):
        parts = []
        for method, curve in curves.groupby("method", sort=False):
            reached = largest.get((method, mode), -1)
            parts.append(f"{method} {_curve(curve.sort_values('reached_sparsity'), reached, f'{tolerance:g}')}")
        yield f"Against the dense model in mode {mode}: {'; '.join(parts)}."


def _curve(curve: pd.DataFrame, reached: float, tolerance: str) -> str:
    """Return what one curve says up to the sparsity `reached`, and at the point behind it."""
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


def _compared(comparisons: pd.DataFrame, what: str) -> Iterator[str]:
    """Give the significant differences with their numbers, and say how many of how many they are."""
    for (kind, mode), rows in comparisons.groupby(["comparison", "mode"], sort=False):
        tested = rows[rows["n"] > 0]
        significant = tested[tested["significant"].astype(bool)]
        few = significant[significant["sparsity"].isin(_few(significant["sparsity"]))]
        parts = []
        for method, shown in few.groupby("method", sort=False):
            parts.append(
                f"{method} " + ", ".join(f"{difference(row)} at {_against(row)}" for row in shown.itertuples())
            )
        verb = "differs" if len(significant) == 1 else "differ"
        count = f"{len(significant) or 'none'} of {len(tested)} {what} {verb} significantly"
        example = "" if len(few) == len(significant) else ", for example"
        numbers = f"{example}: {'; '.join(parts)}" if parts else ""
        untested = len(rows) - len(tested)
        rest = f"; {untested} could not be compared in every seed" if untested else ""
        yield f"In mode {mode}, against {_AGAINST[kind]}, {count}{numbers}{rest}."


def _fronts(best: pd.DataFrame) -> Iterator[str]:
    """Name the points that no other point beats in value and sparsity, or in value and training speed."""
    for name in ("best_for_sparsity", "best_for_speed"):
        rows = best[best[name]]
        devices = rows["device"].unique() if name == "best_for_speed" else [None]  # speeds of one device
        for device in devices if len(rows) else []:
            here = rows if device is None else rows[rows["device"] == device]
            points = [
                f"{row.method} {asked_and_reached(row)} % {row.mode} {row.value:.3f}" for row in here.itertuples()
            ]
            where = f" on {device}" if device else ""
            yield f"No point beats these in both value and {FRONTS[name]}{where}: {'; '.join(points)}."


def _against(row: tuple) -> str:
    """Return the sparsity of a comparison, and the one that it was compared with where the masks reached another."""
    ours, theirs = row.reached_sparsity, row.against_reached_sparsity
    if row.comparison == "dense" or abs(ours - theirs) < 0.001:
        return f"{asked_and_reached(row)} %"
    return f"{row.sparsity} % (reached {100 * ours:.1f} % against {100 * theirs:.1f} %)"


def _few(sparsities: pd.Series) -> list[int]:
    """Return at most four sparsities, evenly spread and with the largest: a sentence of ten numbers is not read."""
    found = sorted(set(sparsities) - {0}, reverse=True)
    step = max(1, math.ceil(len(found) / 4))
    return found[::step]
