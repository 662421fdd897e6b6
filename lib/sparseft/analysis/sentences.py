"""Write the sentences of a headline: what is claimed at one or several sparsities of one model, task, metric and setting."""

from dataclasses import dataclass, replace

from sparseft.analysis.claims import (
    BETTER,
    EXCLUDED,
    OPEN,
    SAME,
    UNKNOWN,
    WORSE,
    Claim,
    Results,
    best_method,
    best_training,
    guess_level,
    guesses,
    recoveries,
)
from sparseft.analysis.comparisons import CONTROL
from sparseft.analysis.headlines import is_loss, metric_phrase
from sparseft.analysis.tables import asked_and_reached
from sparseft.study.grid import DENSE, NO_FINETUNE, PLAIN_LORA

# With at most this many examples, a significant difference shows in two decimals.
FEW_EXAMPLES = 500
# A sentence lists at most this many numbers. It gives the range of more.
MOST_NUMBERS = 3
_DENSE_MODES = {NO_FINETUNE: "without fine-tuning", PLAIN_LORA: "with LoRA"}


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Hold the words for a change of a value. They differ between a fraction and a loss, of which less is better."""

    worse: str
    better: str
    worsens: str
    improves: str
    costs: str
    scores: str
    # How a model with a worse or better value compares, with a place for that word.
    compares: str
    gain: str
    harm: str


OF_FRACTIONS = Direction(
    worse="lower",
    better="higher",
    worsens="lowers",
    improves="raises",
    costs="costs",
    scores="scores",
    compares="scores {}",
    gain=", a significant gain",
    harm=", a significant loss",
)
OF_LOSSES = Direction(
    worse="higher",
    better="lower",
    worsens="raises",
    improves="lowers",
    costs="raises",
    scores="has a loss of",
    compares="has a {} loss",
    gain=", significantly lower",
    harm=", significantly higher",
)


class Sentences:
    """Put the claims about one model, task, metric and setting into sentences."""

    def __init__(self, results: Results, metric: str, tolerance: float) -> None:
        self.results = results
        self.metric = metric_phrase(metric)
        self.tolerance = f"{tolerance:g}"
        count = max(cell.examples for cell in results.every_cell)
        self.examples = f"{count} examples"
        self.digits = 2 if count <= FEW_EXAMPLES and not is_loss(metric) else 3
        self.words = OF_LOSSES if is_loss(metric) else OF_FRACTIONS

    def dense_only(self) -> list[str]:
        """Return the sentence on a study without a sound pruned run; empty without a sound dense run."""
        cells = {mode: self.results.dense(mode) for mode in _DENSE_MODES}
        scores = [
            f"{self._number(cell.value_mean)} {_DENSE_MODES[mode]}" for mode, cell in cells.items() if cell is not None
        ]
        if not scores:
            return []
        change = {
            BETTER: self.words.gain,
            WORSE: self.words.harm,
            SAME: f", which {self.examples} cannot tell apart",
            UNKNOWN: "",
        }[self.results.change("untuned", (DENSE, 0, PLAIN_LORA))]
        return [f"The dense model {self.words.scores} {' and '.join(scores)}{change}; there is no sound pruned run."]

    def opening(self) -> list[str]:
        """Return the sentence on a dense model that is missing or only guesses; empty if neither is so."""
        cells = [self.results.dense(mode) for mode in (NO_FINETUNE, PLAIN_LORA)]
        sound = [cell for cell in cells if cell is not None]
        if not sound:
            has_dense = any(cell.method == DENSE for cell in self.results.every_cell)
            reason = "No dense run is without a fault" if has_dense else "There is no dense run"
            return [f"{reason}, so these runs cannot show what pruning costs."]
        if not guesses(sound[0]):
            return []
        values = " and ".join(
            f"{self._number(cell.value_mean)} {_DENSE_MODES[cell.mode]}" for cell in sound if guesses(cell)
        )
        statement = f"The dense model scores {values}, not measurably above {guessing(sound[0])}"
        if all(guesses(cell) for cell in sound):
            return [f"{statement}, so these runs cannot show what pruning costs."]
        return [f"{statement}."]

    def claim(self, group: list[Claim], first: bool) -> str:
        """Return the sentence on the sparsities of one claim. The first sentence names the method."""
        claim = _common(group)
        place = f"At {listed_sparsities(group)}"
        pruning = self._method(group, first)
        if claim.pruning == WORSE:
            change = f"{pruning} {self.words.worsens} {self.metric} from {self._start()} to {self._numbers(group, 'untuned')}"
            bound = f" (a loss above {self.tolerance} is excluded)" if claim.loss == EXCLUDED else ""
            return f"{place} {change}{bound}{self._after_harm(claim, group)}."
        if claim.pruning in (BETTER, SAME):
            return f"{place} {self._no_harm(claim, group, pruning)}{self._after_no_harm(claim, group)}."
        return f"{place} {self._without_base(claim, group, pruning)}."

    def recovered(self) -> list[str]:
        """Return the sentence on what fine-tuning wins back of the other methods; empty if it wins back nothing there."""
        parts = [
            f"{untuned.method} at {asked_and_reached(untuned)} % from {self._number(untuned.value_mean)}"
            f" to {self._number(tuned.value_mean)}"
            for untuned, tuned in recoveries(self.results)
        ]
        if not parts:
            return []
        example = ", for example" if len(parts) > MOST_NUMBERS else ""
        return [
            f"Where pruning {self.words.costs} {self.metric}, LoRA wins back a part{example}: {listed(parts[:MOST_NUMBERS])}."
        ]

    def control(self) -> list[str]:
        """Return the sentence that compares random pruning with the best method of each sparsity, in that method's best mode."""
        if self.results.methods == [CONTROL]:
            return []
        outcomes: dict[str, list[tuple]] = {}
        for sparsity in self.results.sparsities:
            row = self._control_row(sparsity)
            if row is not None and row.n:
                # The row compares the method with random pruning, and the sentence the other way round.
                change = self.results.direction(-row.difference) if row.significant else SAME
                outcomes.setdefault(change, []).append(row)
        words = {
            WORSE: self.words.compares.format(self.words.worse),
            BETTER: self.words.compares.format(self.words.better),
            SAME: "does not differ significantly",
        }
        parts = [f"{words[kind]} at {self._control_values(outcomes[kind], kind)}" for kind in words if kind in outcomes]
        return [f"Random pruning, the control, {' and '.join(parts)}."] if parts else []

    def _control_row(self, sparsity: int) -> tuple | None:
        """Return the comparison with random pruning of the best cell of a sparsity."""
        method = best_method(self.results, sparsity)
        untuned = self.results.cells.get((method, sparsity, NO_FINETUNE))
        tuned = best_training(self.results, method, sparsity)
        best = max((cell for cell in (untuned, tuned) if cell), key=self.results.quality)
        if (CONTROL, sparsity, best.mode) not in self.results.cells:
            return None
        return self.results.comparisons.get(CONTROL, {}).get((method, sparsity, best.mode))

    def _control_values(self, rows: list[tuple], kind: str) -> str:
        """Return the sparsities and, if they differ, the values of random pruning and of the best method."""
        where = f"{listed([_control_place(row) for row in rows])} %"
        if kind == SAME:
            return where
        places = [(row.method, int(row.sparsity), row.mode) for row in rows]
        ours = [self.results.cells[place].value_mean for place in places]
        random = [self.results.cells[CONTROL, sparsity, mode].value_mean for _, sparsity, mode in places]
        return f"{where} ({self._range(random)} against {self._range(ours)})"

    def _method(self, group: list[Claim], first: bool) -> str:
        """Return the words for the pruning method, or for the best of several."""
        count = len(self.results.methods)
        names = {claim.method for claim in group}
        if count == 1 and not first:
            return "pruning"
        everywhere = len({best_method(self.results, sparsity) for sparsity in self.results.sparsities}) == 1
        if count == 1 or (everywhere and not first):
            return f"{group[0].method} pruning"
        if len(names) == 1:
            return f"the best of {count} methods ({group[0].method})"
        named = ", ".join(f"{claim.method} at {claim.sparsity} %" for claim in group)
        return f"the best of {count} methods ({named})"

    def _start(self, mode: str = NO_FINETUNE) -> str:
        """Return the value of the dense model as text."""
        return self._number(self.results.dense(mode).value_mean)

    def _after_harm(self, claim: Claim, group: list[Claim]) -> str:
        """Return what fine-tuning does to models that pruning made worse."""
        tuned = self._numbers(group, "tuned")
        if claim.hopeless:
            guess = guessing(next(iter(self.results.cells.values())))
            if claim.tuned is None:
                return f", not measurably above {guess}"
            return f" and nothing helps: no run there is measurably above {guess}"
        if claim.tuning == BETTER:
            verb = "brings it back to" if self._reaches_dense(claim, group) else f"{self.words.improves} it to"
            return f", and {_lora(group)} {verb} {tuned}{self._remaining(claim)}"
        if claim.tuning == WORSE:
            return f", and {_lora(group)} {self.words.worsens} it to {tuned}"
        if claim.tuning == SAME:
            return f", and {_lora(group)} wins back nothing measurable ({tuned})"
        return "" if claim.tuned is None else f"; with {_lora(group)} it is {tuned}{self._remaining(claim)}"

    def _reaches_dense(self, claim: Claim, group: list[Claim]) -> bool:
        """Return whether fine-tuned pruned models may be called as good as the fine-tuned dense one.

        No difference to its disadvantage is significant, and a loss above the tolerance is excluded or no value is worse."""
        if claim.remaining not in (SAME, BETTER):
            return False
        gain = self.results.gain
        dense = self.results.dense(claim.dense_mode).value_mean
        return claim.tuned_loss == EXCLUDED or all(gain * member.tuned >= gain * dense for member in group)

    def _no_harm(self, claim: Claim, group: list[Claim], pruning: str) -> str:
        """Return the clause on models that pruning does not make measurably worse."""
        values = f"{self._numbers(group, 'untuned')} against {self._start()}"
        if claim.pruning == BETTER:
            return f"{pruning} {self.words.improves} {self.metric} from {self._start()} to {self._numbers(group, 'untuned')}"
        if not claim.costs_nothing:
            return f"{self.metric} after {pruning} is {values}, which {self.examples} cannot tell apart"
        return (
            f"{pruning} costs nothing measurable ({self.metric} {values} without fine-tuning{self._bound(claim.loss)})"
        )

    def _after_no_harm(self, claim: Claim, group: list[Claim]) -> str:
        """Return what fine-tuning does to models that pruning did not make measurably worse."""
        tuned = self._numbers(group, "tuned")
        if claim.tuning == BETTER:
            return f", and {_lora(group)} {self.words.improves} it to {tuned}{self._remaining(claim)}"
        if claim.tuning == WORSE:
            return f", and {_lora(group)} {self.words.worsens} it to {tuned}{self._remaining(claim)}"
        if claim.remaining == WORSE:
            return f", but with {_lora(group)} it reaches only {tuned}{self._remaining(claim)}"
        return ""

    def _remaining(self, claim: Claim) -> str:
        """Return how fine-tuned pruned models compare with the fine-tuned dense one."""
        if claim.remaining == UNKNOWN:
            return ""
        shown = {
            WORSE: f", significantly {self.words.better}",
            BETTER: f", significantly {self.words.worse}",
            SAME: "; no significant difference",
        }
        words = shown[claim.remaining]
        if claim.remaining == SAME and claim.tuned_loss == EXCLUDED:
            words = f"; a loss above {self.tolerance} is excluded"
        return f" (dense {_DENSE_MODES[claim.dense_mode]}: {self._start(claim.dense_mode)}{words})"

    def _without_base(self, claim: Claim, group: list[Claim], pruning: str) -> str:
        """Return the clause on pruned models that cannot be compared with an untrained dense model."""
        untuned, tuned = self._numbers(group, "untuned"), self._numbers(group, "tuned")
        if claim.remaining != UNKNOWN:
            return f"{self.metric} after {pruning} and {_lora(group)} is {tuned}{self._remaining(claim)}"
        change = {
            BETTER: f", and {_lora(group)} {self.words.improves} it to {tuned}",
            WORSE: f", and {_lora(group)} {self.words.worsens} it to {tuned}",
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

    def _numbers(self, group: list[Claim], name: str) -> str:
        """Return the values of a group as text; empty if it has none."""
        values = [getattr(claim, name) for claim in group]
        return "" if None in values else self._range(values)

    def _range(self, values: list[float]) -> str:
        """Return one value per sparsity, or the range of many."""
        if len(values) > MOST_NUMBERS:
            return f"between {self._number(min(values))} and {self._number(max(values))}"
        words = [self._number(value) for value in values]
        return words[0] if len(set(words)) == 1 else listed(words)

    def _number(self, value: float) -> str:
        """Return a value as text, with one more digit if it would otherwise be rounded to 0 or 1."""
        text = f"{value:.{self.digits}f}"
        return f"{value:.{self.digits + 1}f}" if float(text) in (0, 1) and value not in (0, 1) else text


def _common(group: list[Claim]) -> Claim:
    """Return what all claims of a group support; the numbers are those of the first."""
    first = group[0]
    return replace(
        first,
        remaining=first.remaining if all(claim.remaining == first.remaining for claim in group) else UNKNOWN,
        loss=first.loss if all(claim.loss == first.loss for claim in group) else None,
        tuned_loss=first.tuned_loss if all(claim.tuned_loss == first.tuned_loss for claim in group) else None,
        costs_nothing=all(claim.costs_nothing for claim in group),
    )


def _control_place(row: tuple) -> str:
    """Return the sparsity of a comparison with random pruning, with what both reached if it differs."""
    ours, random = row.reached_sparsity, row.against_reached_sparsity
    if abs(ours - random) < 0.001:
        return f"{row.sparsity}"
    return f"{row.sparsity} (reached {100 * random:.1f} against {100 * ours:.1f})"


def listed_sparsities(group: list[Claim]) -> str:
    """Return the sparsities of a group as text."""
    return f"{listed([claim.sparsity for claim in group])} %"


def _lora(group: list[Claim]) -> str:
    """Return the name of the fine-tuning of a group."""
    names = {claim.lora for claim in group}
    return group[0].lora if len(names) == 1 else "LoRA in its better mode"


def listed(words: list[str]) -> str:
    """Return words as a list in a sentence: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def guessing(cell: tuple) -> str:
    """Return the name of what guessing scores."""
    level = guess_level(cell)
    if level == 0:
        return "zero"
    return f"guessing ({level:.2f})" if level == cell.chance else f"one answer to all ({level:.3f})"
