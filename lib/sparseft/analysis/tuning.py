"""Choose the best training of each cell by the selection rows, before anything is computed from the runs.

A study can train each cell with several trainings (`grid.trainings`). Tables, figures and sentences are about one of them: the
one with the best mean over the seeds on the selection rows. Equal means are decided by the mean loss there, and then by the order
of the trainings in the configuration. The chosen training is reported on the validation rows, which took no part in the choice.

So the validation rows are as new to the chosen training as to any other. A test on them has the same error rate as without a
choice, and the number of trainings needs no correction. A choice by the validation rows would report the luck of their
examples as well. The seeds of the chosen training took part in the choice, so two modes should be tuned over equally many
trainings.

A training cannot be chosen if a run of it is missing, has ended early, has a fault, or has no result on the selection rows.
There is nothing to choose in a cell with one training, so that it is reported as it is. This module reads no validation result.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from sparseft.analysis.headlines import gain
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap
from sparseft.errors import InputError
from sparseft.study.grid import NO_FINETUNE, Cell, Run

# What names a cell in a table.
PLACE = ["model", "task", "method", "sparsity", "mode"]
# Means are compared after rounding to this many decimals, because sums in another order differ in the last bits.
DECIMALS = 12
# What can decide between the trainings of a cell.
BY_VALUE, BY_LOSS, BY_ORDER = "value", "loss", "order"


@dataclass(frozen=True)
class Selected:
    """Hold the mean results of a training over its seeds on the selection rows."""

    metric: str
    value: float
    standard_error: float
    loss: float
    examples: int

    @property
    def quality(self) -> tuple[float, float]:
        """Return the key by which trainings are ranked: the value, signed so that larger is better, then minus the loss."""
        return round(gain(self.metric) * self.value, DECIMALS), -round(self.loss, DECIMALS)


@dataclass(frozen=True)
class Trial:
    """Hold one training of a cell. `selected` is None if a run has no result on the selection rows.

    `obstacle` says why the training cannot be chosen; it is empty if it can."""

    training: str
    runs: tuple[Judged, ...]
    selected: Selected | None
    obstacle: str = ""


@dataclass(frozen=True)
class TunedCell:
    """Hold the trainings of a cell that were tried, in the order of the configuration, and the one that is reported.

    `chosen` is None if none of several trainings can be chosen. `cell` has no training."""

    cell: Cell
    trials: tuple[Trial, ...]

    @property
    def chosen(self) -> Trial | None:
        """Return the training that is reported."""
        return self.trials[0] if len(self.trials) == 1 else best(self.trials)

    @property
    def tried(self) -> int:
        """Return the number of trainings that were tried. Those of the same models count once.

        In mode reconstruct, trainings that differ in learning rate and steps make the same adapter."""
        models = (frozenset(run.record.validation.merged_digest for run in trial.runs) for trial in self.trials)
        return len({digests or trial.training for digests, trial in zip(models, self.trials, strict=True)})

    @property
    def decided_by(self) -> str | None:
        """Return what decided for the chosen training: BY_VALUE, BY_LOSS or BY_ORDER; None if there was no choice."""
        if self.tried == 1 or self.chosen is None:
            return None
        value, loss = self.chosen.selected.quality
        others = [one.selected.quality for one in self.trials if one is not self.chosen and not one.obstacle]
        if (value, loss) in others:
            return BY_ORDER
        return BY_LOSS if value in [other_value for other_value, _ in others] else BY_VALUE


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the best of the trainings that can be chosen, the first of equal ones; None if there is none."""
    able = [trial for trial in trials if not trial.obstacle]
    return max(able, key=lambda trial: trial.selected.quality, default=None)


def tune(judged: Iterable[Judged], gaps: Iterable[Gap], order: Sequence[str] = ()) -> list[TunedCell]:
    """Return the trained cells of the runs of one setting, each with its trainings in the order of `order`.

    `gaps` names the missing runs. A training without any run was tried only if the configuration, and so `order`, has it.
    Trainings that `order` does not name come last, by their names."""
    runs: dict[Cell, dict[Run, Judged]] = defaultdict(dict)
    for one in judged:
        if one.record.run.mode != NO_FINETUNE:
            runs[cell_of(one.record.run)][one.record.run] = one
    missing: dict[Cell, list[Run]] = defaultdict(list)
    for run in _missing(gaps):
        missing[cell_of(run)].append(run)
    return [TunedCell(cell, tuple(_trials(members, missing[cell], order))) for cell, members in runs.items()]


def chosen_runs(judged: Iterable[Judged], tuned: Iterable[TunedCell]) -> list[Judged]:
    """Return the runs that the tables report: the untrained ones, and those of the chosen trainings."""
    reported = {run.record.run for cell in tuned if cell.chosen for run in cell.chosen.runs}
    return [run for run in judged if run.record.run.mode == NO_FINETUNE or run.record.run in reported]


def selected(runs: Sequence[Judged]) -> Selected | None:
    """Return the mean results of runs on the selection rows; None if a run has none."""
    records = [run.record.selection for run in runs]
    if not records or None in records:
        return None
    return Selected(
        metric=records[0].metric,
        value=fmean(record.value for record in records),
        standard_error=fmean(record.standard_error for record in records),
        loss=fmean(record.eval_loss for record in records),
        examples=records[0].examples,
    )


def with_trainings(table: pd.DataFrame, tuned: Iterable[TunedCell]) -> pd.DataFrame:
    """Return a table of cells with the training that each reports, and with the number of trainings that were tried.

    A comparison also gets those of the other cell. An untrained cell has no training, and none was tried."""
    training = {cell.cell.id: cell.chosen.training for cell in tuned if cell.chosen}
    tried = {cell.cell.id: cell.tried for cell in tuned}
    cells = [Cell(*place).id for place in table[PLACE].itertuples(index=False)]
    columns = {"": cells} | ({"against_": table["against"]} if "against" in table else {})
    return table.assign(
        **{f"{side}training": [training.get(cell, "") for cell in names] for side, names in columns.items()},
        **{f"{side}trainings_tried": [tried.get(cell, 0) for cell in names] for side, names in columns.items()},
    )


def _trials(runs: dict[Run, Judged], missing: list[Run], order: Sequence[str]) -> Iterable[Trial]:
    """Yield the trainings of a cell. Each needs every seed that a run of the cell has, or should have."""
    names = {run.training for run in runs} | {run.training for run in missing if run.training in order}
    rows = {run.record.selection.inputs.data for run in runs.values() if run.record.selection}
    seeds = sorted({run.seed for run in (*runs, *missing) if run.training in names})
    for name in sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name)):
        members = tuple(one for run, one in runs.items() if run.training == name)
        reasons = _lacking(members, seeds)
        if len(rows) > 1:
            reasons.append("the runs of this cell were evaluated on different selection rows")
        yield Trial(name, members, selected(members), "; ".join(reasons))


def _lacking(runs: Sequence[Judged], seeds: Sequence[int]) -> list[str]:
    """Return why a training cannot be chosen: a seed that it lacks, or what is wrong with a run."""
    present = {run.record.run.seed for run in runs}
    reasons = [f"seed {seed} has no run of the study" for seed in seeds if seed not in present]
    for run in runs:
        if run.faults:
            reasons.append(f"seed {run.record.run.seed} has a fault")
        elif run.ended_early:
            reasons.append(f"seed {run.record.run.seed} {run.ended_early}")
        elif run.record.selection is None:
            reasons.append(f"seed {run.record.run.seed} has no result on the selection rows")
    return reasons


def cell_of(run: Run) -> Cell:
    """Return the cell of a run without its training, because the tables have one training per cell."""
    return Cell(run.model, run.task, run.method, run.sparsity, run.mode)


def _missing(gaps: Iterable[Gap]) -> Iterable[Run]:
    """Yield the trained runs that are in no table."""
    for gap in gaps:
        # The name of a gap's folder may be no run's.
        with suppress(InputError):
            run = Run.parse(gap.run_id)
            if gap.left_out and run.mode != NO_FINETUNE:
                yield run
