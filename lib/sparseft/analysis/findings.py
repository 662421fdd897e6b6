"""Say in plain English what the tables of one model, task, metric and setting show.

`headline` sums the study up in at most four sentences. `findings` has a sentence for every comparison and every curve. A
sentence gives a difference only if comparisons.py calls it significant. "Not significant" does not mean "equal". A run with a
fault supports no sentence.
"""

import math
from collections.abc import Iterable

import pandas as pd

from sparseft.analysis.comparisons import LOSS, TOLD
from sparseft.analysis.derived import Derived
from sparseft.analysis.tables import PLAIN_LORA, asked_and_reached
from sparseft.grid import NO_FINETUNE

_HEADS = {  # by comparison; dense is told of the losses alone, for the values have verdicts
    "dense": "{mode} minus dense",
    "random": "In mode {mode}, minus random pruning",
    "untuned": "{mode} minus no fine-tuning",
    "modes": "{mode} minus sparse_to_dense",
}
FRONTS = {"best_for_sparsity": "sparsity", "best_for_speed": "training speed", "largest_within": "largest within"}


def headline(derived: Derived, tolerance: float) -> list[str]:
    """Return at most four sentences that sum up one model on one task in one setting."""
    return findings(derived, tolerance)[:4]


def findings(derived: Derived, tolerance: float) -> list[str]:
    """Return sentences about one model on one task in one setting."""
    values = derived.comparisons[derived.comparisons["comparison"] != "dense"]
    outcomes = [*TOLD, "significant"]
    losses = derived.comparisons.drop(columns=outcomes).rename(columns=lambda name: name.removeprefix(LOSS))
    return [
        *_dense(derived.points),
        *_verdicts(derived, tolerance),
        *_compared(values),
        *(f"Loss, {sentence}" for sentence in _compared(losses)),
        *_fronts(derived.best),
    ]


def percents(table: pd.DataFrame) -> list[str]:
    """Return the sparsities of the rows as text."""
    return [asked_and_reached(row) for row in table.itertuples()]


def _dense(points: pd.DataFrame) -> Iterable[str]:
    start = points[(points["sparsity"] == 0) & (points["n_sound"] == points["n"])]
    mode = start["mode"].where(start["mode"] == NO_FINETUNE, PLAIN_LORA)  # every trained curve starts from plain LoRA
    start = start.assign(mode=mode).drop_duplicates("mode").set_index("mode")
    for mode, words in {NO_FINETUNE: "without fine-tuning", PLAIN_LORA: "with plain LoRA"}.items():
        if mode in start.index:
            cell = start.loc[mode]
            guess, named = cell.chance, f"chance ({cell.chance:.2f})"
            if cell.majority_floor > guess:  # false where a task has none
                guess, named = cell.majority_floor, f"one answer to all ({cell.majority_floor:.3f})"
            error = cell.standard_error
            above = f", {(cell.value - guess) / error:+.1f} standard errors from {named}" if error else ""
            yield f"The dense model {words}: {cell.value:.3f} ± {error:.3f}{above}."


def _verdicts(derived: Derived, tolerance: float) -> Iterable[str]:
    """Say how far each curve can be pruned."""
    judged = derived.points[derived.points["verdict"].notna()]
    largest = derived.best[derived.best["largest_within"]]
    for mode, part in judged.groupby("mode", sort=False):
        found = largest[largest["mode"] == mode]
        words = [f"{row.method} up to {asked_and_reached(row)} % ({difference(row)})" for row in found.itertuples()]
        rest = [method for method in part["method"].unique() if method not in set(found["method"])]
        words += [f"not shown at the smallest sparsity for {', '.join(rest)}"] if rest else []
        yield f"No regression beyond {tolerance:g} against dense in mode {mode}: {'; '.join(words)}."


def _compared(comparisons: pd.DataFrame) -> Iterable[str]:
    """Say the significant differences with their numbers, and name the others."""
    few = comparisons[comparisons["sparsity"].isin(_few(comparisons["sparsity"]))]
    found: dict[tuple[str, str], dict[bool, dict[str, list]]] = {}
    for row in few.itertuples():
        by_method = found.setdefault((row.comparison, row.mode), {True: {}, False: {}})
        by_method[row.significant].setdefault(row.method, []).append(row)
    for (kind, mode), by_method in found.items():
        parts = [
            f"{method} " + ", ".join(f"{difference(row)} at {_against(row)}" for row in rows)
            for method, rows in by_method[True].items()
        ]
        untold = [
            f"{method} at {', '.join(percents(pd.DataFrame(rows)))} %" for method, rows in by_method[False].items()
        ]
        parts += [f"not significant: {', '.join(untold)}"] if untold else []
        yield f"{_HEADS[kind].format(mode=mode)}: {'; '.join(parts)}."


def _fronts(best: pd.DataFrame) -> Iterable[str]:
    for name in ("best_for_sparsity", "best_for_speed"):
        rows = best[best[name]]
        if rows.empty:
            continue
        for device in rows["device"].unique() if name == "best_for_speed" else [None]:  # speeds of one device
            rows_there = rows if device is None else rows[rows["device"] == device]
            points = [
                f"{row.method} {asked_and_reached(row)} % {row.mode} {row.value:.3f}" for row in rows_there.itertuples()
            ]
            yield f"Best in value for its {FRONTS[name]}{f' on {device}' if device else ''}: {'; '.join(points)}."


def difference(row: tuple) -> str:
    mean = row.difference if hasattr(row, "difference") else row.difference_to_dense
    return f"{mean:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"


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
