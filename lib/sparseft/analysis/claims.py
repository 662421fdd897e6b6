"""Decide for each sparsity what the numbers of one model, task, metric and setting support.

A value is called worse or better only if comparisons.py calls the difference significant. A higher fraction is better, and so is
a lower loss per token. That a loss above the tolerance is excluded is claimed only if the verdict says so at this sparsity and
at every smaller one. Runs with a fault support no claim. findings.py puts the claims into words.
"""

import math
from dataclasses import dataclass

import pandas as pd

from sparseft.analysis.comparisons import CONTROL
from sparseft.analysis.derived import Derived
from sparseft.analysis.headlines import gain
from sparseft.analysis.statistics import WITHIN
from sparseft.analysis.tables import asked_and_reached
from sparseft.modes import get_mode
from sparseft.study.grid import DENSE, NO_FINETUNE, PLAIN_LORA, TRAINED_MODES

WORSE, BETTER, SAME, UNKNOWN = "worse", "better", "not significant", "not compared"  # what a comparison says
EXCLUDED, OPEN = "excluded", "open"  # whether a loss above the tolerance is excluded

Place = tuple[str, int, str]  # method, sparsity, mode


@dataclass(frozen=True)
class Claim:
    """Hold what the best method of one sparsity supports: the kinds of its claims, then its numbers."""

    pruning: str  # the change from the dense model to the pruned one, both without fine-tuning
    tuning: str  # the change by fine-tuning
    remaining: str  # the change from the dense model of that mode, dense_mode, to the fine-tuned pruned one
    loss: str | None  # whether a loss above the tolerance by pruning is excluded; None if there is no verdict
    tuned_loss: str | None  # the same after fine-tuning
    costs_nothing: bool  # whether pruning without fine-tuning costs nothing measurable
    hopeless: bool  # whether pruning costs something, and no run of this sparsity is measurably better than guessing
    lora: str  # the name of the fine-tuning; empty without one
    dense_mode: str  # the mode of the dense model that the fine-tuned one is compared with
    method: str
    sparsity: str  # in percent, with the one that the masks reached if it differs
    untuned: float | None
    tuned: float | None

    @property
    def kind(self) -> tuple:
        """Return what is claimed, without the numbers."""
        return (*self.outcome, self.remaining, self.loss, self.tuned_loss, self.costs_nothing)

    @property
    def outcome(self) -> tuple:
        """Return what pruning and fine-tuning change.

        The distance to the dense model is a part of it only if pruning shows no fall, or if something is not compared."""
        to_dense = self.remaining if UNKNOWN in (self.pruning, self.tuning) else None
        falls_tuned = self.pruning != WORSE and self.remaining == WORSE
        return (
            self.pruning,
            self.tuning,
            to_dense,
            falls_tuned,
            self.hopeless,
            self.dense_mode,
            self.untuned is None,
            self.tuned is None,
        )


class Results:
    """Look up the sound cells of one model, task, metric and setting, and what their comparisons say.

    A pruned cell whose mask prunes nothing is left out, because it would be the best method of a sparsity that it lacks."""

    def __init__(self, derived: Derived) -> None:
        self.gain = gain(derived.cells.iloc[0]["metric"])
        self.every_cell = list(derived.cells.itertuples())
        sound = derived.cells[derived.cells["n_sound"] == derived.cells["n"]]
        self.cells = _by_place(sound[(sound["sparsity"] == 0) | (sound["reached_sparsity"] > 0)])
        self.points = _by_place(derived.points[derived.points["n_sound"] == derived.points["n"]])
        self.comparisons = {
            kind: _by_place(rows) for kind, rows in derived.comparisons.groupby("comparison", sort=False)
        }
        largest = derived.best[derived.best["largest_within"]]
        self.within = {(row.method, row.mode): row.reached_sparsity for row in largest.itertuples()}
        has_choice = derived.budget.groupby(["method", "sparsity", "mode"])["chosen"].any()
        # The sparsities at which no training of some cell can be chosen, so that the cell is unknown.
        self.undecided = {sparsity for (_, sparsity, _), chosen in has_choice.items() if not chosen}

    @property
    def methods(self) -> list[str]:
        """Return the methods that the headline is about: all but the control, or the control if it is the only one."""
        pruned = dict.fromkeys(method for method, sparsity, _ in self.cells if sparsity > 0)
        return [method for method in pruned if method != CONTROL] or list(pruned)

    @property
    def sparsities(self) -> list[int]:
        """Return the sparsities of `methods`."""
        return sorted({sparsity for method, sparsity, _ in self.cells if method in self.methods})

    def dense(self, mode: str) -> tuple | None:
        """Return the dense cell that the curves of a mode start from; None if there is no sound one."""
        return self.cells.get((DENSE, 0, get_mode(mode).dense_mode))

    def change(self, kind: str, place: Place) -> str:
        """Return what the comparison of a cell says. Nothing is compared with a dense model that only guesses."""
        row = self.comparisons.get(kind, {}).get(place)
        if row is None or not row.n:
            return UNKNOWN
        if kind == "dense":
            dense = self.dense(place[2])
            if dense is None or guesses(dense):
                return UNKNOWN
        if not row.significant:
            return SAME
        return self.direction(row.difference)

    def direction(self, difference: float) -> str:
        """Return WORSE or BETTER for a significant difference of values."""
        return BETTER if self.gain * difference > 0 else WORSE

    def quality(self, cell: tuple) -> float:
        """Return a number that is the larger, the better the value of a cell is."""
        return self.gain * cell.value_mean

    def loss(self, place: Place) -> str | None:
        """Return whether a loss above the tolerance is excluded at a point and at every smaller sparsity of its curve."""
        method, _, mode = place
        point = self.points.get(place)
        if point is None or pd.isna(point.verdict):
            return None
        if point.reached_sparsity <= self.within.get((method, mode), -1):
            return EXCLUDED
        return None if point.verdict == WITHIN else OPEN


def claims(results: Results) -> list[Claim]:
    """Return what the best method of each sparsity supports, from the smallest sparsity to the largest."""
    return [_claim(results, sparsity) for sparsity in results.sparsities]


def guess_level(cell: tuple) -> float:
    """Return what guessing scores, or what one answer to all questions scores if that is more; NaN for a loss."""
    return max(cell.chance, cell.majority_floor) if pd.notna(cell.majority_floor) else cell.chance


def guesses(cell: tuple) -> bool:
    """Return whether a cell is not measurably better than guessing, because its interval reaches down to that score."""
    return cell.value_low <= guess_level(cell)


def best_training(results: Results, method: str, sparsity: int) -> tuple | None:
    """Return the trained cell with the best value; cells that fine-tuning makes significantly better come first."""
    cells = _trained(results, method, sparsity)
    return max(cells, key=lambda cell: (_improved(results, cell), results.quality(cell)), default=None)


def recoveries(results: Results) -> list[tuple[tuple, tuple]]:
    """Return the untrained and the trained cell wherever pruning makes the value worse and fine-tuning better again.

    Both changes are significant. The best method of a sparsity is left out, because its claim says so already."""
    pairs = []
    for (method, sparsity, mode), untuned in results.cells.items():
        is_best = sparsity in results.sparsities and method == best_method(results, sparsity)
        if mode != NO_FINETUNE or sparsity == 0 or is_best:
            continue
        tuned = best_training(results, method, sparsity)
        falls = results.change("dense", (method, sparsity, mode)) == WORSE
        if tuned is not None and falls and _improved(results, tuned):
            pairs.append((untuned, tuned))
    return pairs


def best_method(results: Results, sparsity: int) -> str:
    """Return the method with the best value in any mode. Of equal ones, the best value before training decides."""

    def qualities(method: str) -> tuple[float, float]:
        untuned = results.cells.get((method, sparsity, NO_FINETUNE))
        cells = _trained(results, method, sparsity) + ([untuned] if untuned else [])
        best = max(map(results.quality, cells), default=-math.inf)
        return best, results.quality(untuned) if untuned else -math.inf

    return max(results.methods, key=qualities)


def _claim(results: Results, sparsity: int) -> Claim:
    """Return what the best method of one sparsity supports."""
    method = best_method(results, sparsity)
    untuned_place = (method, sparsity, NO_FINETUNE)
    untuned = results.cells.get(untuned_place)
    tuned = best_training(results, method, sparsity)
    tuned_place = (method, sparsity, tuned.mode if tuned else "")
    pruning = results.change("dense", untuned_place)
    loss = results.loss(untuned_place)
    not_worse = pruning == SAME and (
        loss == EXCLUDED or results.quality(untuned) >= results.quality(results.dense(NO_FINETUNE))
    )
    return Claim(
        pruning=pruning,
        tuning=results.change("untuned", tuned_place),
        remaining=results.change("dense", tuned_place),
        loss=loss,
        tuned_loss=results.loss(tuned_place),
        costs_nothing=pruning == BETTER or not_worse,
        hopeless=pruning == WORSE and _hopeless(results, sparsity),
        lora=_training_name(results, tuned) if tuned else "",
        dense_mode=get_mode(tuned.mode).dense_mode if tuned else PLAIN_LORA,
        method=method,
        sparsity=asked_and_reached(tuned or untuned),
        untuned=untuned.value_mean if untuned else None,
        tuned=tuned.value_mean if tuned else None,
    )


def _training_name(results: Results, best: tuple) -> str:
    """Return the name of the best fine-tuning, with its mode if the modes differ, and with how many trainings were tried."""
    cells = _trained(results, best.method, best.sparsity)
    outcomes = {(cell.value_mean, _improved(results, cell)) for cell in cells}
    has_two_kinds = any(get_mode(mode).masks_every_step for _, _, mode in results.cells)
    details = []
    if has_two_kinds and not (len(cells) > 1 and len(outcomes) == 1):
        details.append(best.mode)
    if best.trainings_tried > 1:
        details.append(f"best of {best.trainings_tried} trainings")
    return f"LoRA ({', '.join(details)})" if details else "LoRA"


def _hopeless(results: Results, sparsity: int) -> bool:
    """Return whether nothing helps at a sparsity, as far as every cell of it is known and sound.

    No cell is measurably better than guessing, and no training improves one."""
    cells = [cell for cell in results.every_cell if cell.sparsity == sparsity]
    if sparsity in results.undecided or any(cell.n_sound < cell.n for cell in cells):
        return False
    return all(guesses(cell) and not _improved(results, cell) for cell in cells)


def _trained(results: Results, method: str, sparsity: int) -> list[tuple]:
    """Return the sound trained cells of a method and sparsity."""
    cells = [results.cells.get((method, sparsity, mode)) for mode in TRAINED_MODES]
    return [cell for cell in cells if cell is not None]


def _improved(results: Results, cell: tuple) -> bool:
    """Return whether fine-tuning makes the value of a cell significantly better."""
    return results.change("untuned", (cell.method, cell.sparsity, cell.mode)) == BETTER


def _by_place(table: pd.DataFrame) -> dict[Place, tuple]:
    """Return the rows of a table by method, sparsity and mode."""
    return {(row.method, int(row.sparsity), row.mode): row for row in table.itertuples()}
