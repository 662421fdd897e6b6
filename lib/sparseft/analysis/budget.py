"""Say what each training of each cell cost, and what it reached.

    training compute = tokens that its optimiser steps read, without padding

Within one model every token costs the same operations with its weights, so tokens compare trainings and modes of one model.
What a mode adds to a step shows only in its seconds. They are computed from the speed that the stage `throughput` measured by
itself, on the training's own model, mask and examples, at the same batch size, rank and gradient, on the same device, in as
many processes. They are blank without such a measurement, whose step is one forward pass, whatever micro_batch_size is:

    seconds = examples seen / samples per second

The seconds of the runs themselves are not used, because other jobs may have run beside them. The cost of a run that
continues another one includes the cost of the other. Numbers are means over the seeds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import pandas as pd

from sparseft.analysis.columns import BUDGET
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Record, ThroughputRecord, TrainingRecord
from sparseft.analysis.tables import tidy
from sparseft.analysis.throughput_table import MeasuredBatch
from sparseft.analysis.tuning import Trial, TunedCell
from sparseft.modes import get_mode
from sparseft.study.grid import Cell, Run

# What a measurement and a training must share, apart from their inputs.
_MEASURED_ALIKE = ("device", "processes", "gradient", "lora_r", "gradient_checkpointing")


@dataclass(frozen=True)
class Costs:
    """Compute what runs cost, from the records of all runs of a study and from the measurements of its throughput."""

    records: Mapping[Run, Record]
    measurements: Mapping[Cell, ThroughputRecord]

    def examples(self, run: Run) -> float | None:
        """Return the number of examples that a training read."""
        return self._with_start(run, lambda train, _: train.steps_done * train.batch_size)

    def tokens(self, run: Run) -> float | None:
        """Return the training compute: the number of tokens that a training read."""
        return self._with_start(run, lambda train, _: train.tokens)

    def seconds(self, run: Run) -> float | None:
        """Return the seconds of a training at the measured speed."""
        return self._with_start(run, self._measured_seconds)

    def _with_start(self, run: Run, cost: Callable[[TrainingRecord, Run], float | None]) -> float | None:
        """Return the cost of a run and of the run that it continues; None if one of them is not known."""
        record = self.records.get(run)
        own = cost(record.train, run) if record and record.train else None
        start = get_mode(run.mode).starts_from
        if own is None or not start:
            return own
        before = self._with_start(replace(run, mode=start), cost)
        return None if before is None else own + before

    def _measured_seconds(self, train: TrainingRecord, run: Run) -> float | None:
        """Return the seconds of a training by itself; None if its work was not measured under its conditions."""
        cell = Cell(run.model, run.task, run.method, run.sparsity, run.mode, training=run.training)
        measurement = self.measurements.get(cell)
        if measurement is None or not _measures(measurement, train):
            return None
        sizes = {batch.batch_size: MeasuredBatch(cell, measurement, batch) for batch in measurement.batches}
        rate = sizes[train.batch_size].samples_per_second.mean if train.batch_size in sizes else None
        return train.steps_done * train.batch_size / rate if rate else None


def _measures(measurement: ThroughputRecord, train: TrainingRecord) -> bool:
    """Return whether a measurement is of a training's own inputs, examples and settings, on its device."""
    inputs = measurement.inputs
    return (
        inputs is not None
        and (inputs.model, inputs.mask, inputs.train) == (train.inputs.model, train.inputs.mask, train.inputs.train)
        and measurement.sequence_length is None
        and all(getattr(measurement, name) == getattr(train, name) for name in _MEASURED_ALIKE)
    )


@dataclass(frozen=True)
class TrialBudget:
    """Hold one training of a cell, and compute its row of budget.csv."""

    tuned: TunedCell
    trial: Trial
    costs: Costs

    @property
    def cell(self) -> Cell:
        """Return the cell, without its training."""
        return self.tuned.cell

    @property
    def metric(self) -> str:
        """Return the headline metric of the cell's runs."""
        return next(run.record.evaluation.metric for trial in self.tuned.trials for run in trial.runs)

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return len(self.trial.runs)

    @property
    def steps(self) -> int | None:
        """Return the number of optimiser steps that each run took."""
        return self._shared("steps_done")

    @property
    def batch_size(self) -> int | None:
        """Return the number of examples per step."""
        return self._shared("batch_size")

    @property
    def learning_rate(self) -> float | None:
        """Return the peak learning rate."""
        return self._shared("learning_rate")

    @property
    def examples_seen(self) -> float | None:
        """Return the mean number of examples that the runs read."""
        return self._mean(self.costs.examples)

    @property
    def training_tokens(self) -> float | None:
        """Return the mean number of tokens that the runs read."""
        return self._mean(self.costs.tokens)

    @property
    def measured_seconds(self) -> float | None:
        """Return the mean seconds of the runs at the measured speed."""
        return self._mean(self.costs.seconds)

    @property
    def trainings_tried(self) -> int:
        """Return the number of trainings of the cell."""
        return self.tuned.tried

    @property
    def value(self) -> float | None:
        """Return the mean value on the validation rows."""
        return _mean_of(run.record.evaluation.value for run in self.trial.runs)

    @property
    def chosen(self) -> bool:
        """Return whether the tables report this training."""
        return self.tuned.chosen is self.trial

    @property
    def decided_by(self) -> str | None:
        """Return what decided for this training; None if it was not chosen, or if there was no choice."""
        return self.tuned.decided_by if self.chosen else None

    @property
    def obstacle(self) -> str | None:
        """Return why the training could not be chosen; None if it could, or if there was no choice."""
        return (self.trial.obstacle or None) if len(self.tuned.trials) > 1 else None

    def _shared(self, name: str) -> float | None:
        """Return a field of train.json that all runs agree in; None if they do not, or if none was read."""
        values = {getattr(run.record.train, name) for run in self.trial.runs if run.record.train}
        return values.pop() if len(values) == 1 else None

    def _mean(self, cost: Callable[[Run], float | None]) -> float | None:
        """Return the mean cost of the runs; None if one is not known."""
        return _mean_of(cost(run.record.run) for run in self.trial.runs)


def budget(
    tuned: Iterable[TunedCell], judged: Iterable[Judged], measurements: Iterable[ThroughputRecord] = ()
) -> pd.DataFrame:
    """Return a row per cell and training. `judged` are all runs of the study."""
    costs = Costs(
        {run.record.run: run.record for run in judged},
        {Cell.parse(measurement.cell): measurement for measurement in measurements},
    )
    rows = [BUDGET.row_of(TrialBudget(cell, trial, costs)) for cell in tuned for trial in cell.trials]
    numbers = {column.name: float for column in BUDGET.columns if column.type == "number"}
    table = pd.DataFrame(rows, columns=[name for name in BUDGET.names if name != "setting"]).astype(numbers)
    return tidy(table, ["model", "task", "metric", "method", "sparsity", "mode"])


def _mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if a value is not known or if there is none."""
    values = list(values)
    return fmean(values) if values and None not in values else None
