"""Describe the table of what each training cost and reached."""

from dataclasses import replace

from sparseft.analysis.columns.cell_columns import SETTING
from sparseft.analysis.columns.column import NATS, OF_VALUE, Column, TableDescription, like
from sparseft.analysis.columns.run_columns import SUMMARY

_NOT_SELECTED = "a run of the training has no result on the selection rows"
_NO_RECORD = "a run's train.json is missing or damaged, or the training has no run"

BUDGET = TableDescription(
    "budget.csv",
    "One row per training of a trained cell: what it cost and what it reached, over its seeds. To compare modes at equal steps or"
    " at equal compute, take the rows with these steps or tokens, and in each cell the one with the best selection_value. Rows"
    " with chosen True are at equal numbers of tuned trainings where trainings_tried is equal.\n\n"
    "Training compute is training_tokens. Within a model, every token costs the same operations with its weights. What a mode adds"
    " to a step shows only in measured_seconds. A mode that continues another run, such as reconstruct_to_sparse, pays for that"
    " run too.",
    (
        SETTING,
        *like(SUMMARY, "model task", part="cell"),
        replace(like(SUMMARY, "metric")[0], source="metric"),
        *like(SUMMARY, "method sparsity mode", part="cell"),
        Column(
            "training",
            "text",
            source="trial.training",
            empty="the training has no name",
            meaning="Name in `grid.trainings` of the configuration.",
        ),
        Column("runs", "integer", source="runs", unit="runs", meaning="Number of runs that were read."),
        Column(
            "steps",
            "integer",
            source="steps",
            unit="optimiser steps",
            empty=f"{_NO_RECORD}; the runs took different numbers of steps",
            meaning="Optimiser steps that each run took, without those of a run that it continues.",
        ),
        Column(
            "batch_size",
            "integer",
            source="batch_size",
            unit="examples",
            empty=_NO_RECORD,
            meaning="Examples per step.",
        ),
        Column("learning_rate", "number", source="learning_rate", empty=_NO_RECORD, meaning="Peak learning rate."),
        Column(
            "examples_seen",
            "number",
            source="examples_seen",
            unit="examples",
            empty=_NO_RECORD,
            meaning="Steps times batch size: examples that the training read, with repetitions.",
        ),
        Column(
            "training_tokens",
            "number",
            source="training_tokens",
            unit="tokens, without padding",
            empty=_NO_RECORD,
            meaning="Training compute: tokens that the training read, mean over the runs.",
        ),
        Column(
            "measured_seconds",
            "number",
            source="measured_seconds",
            unit="seconds",
            empty="the stage throughput did not measure the runs' own model, mask and whole examples at this batch size, rank and"
            " gradient, on their device and in as many processes; the mode is reconstruct or reconstruct_to_sparse, because no"
            " reconstruction is measured",
            meaning="examples_seen divided by the samples per second of the stage throughput.",
        ),
        Column(
            "trainings_tried",
            "integer",
            source="trainings_tried",
            unit="trainings",
            meaning="Trainings of the cell that were tried, with those that could not be chosen.",
        ),
        Column(
            "selection_value",
            "number",
            source="trial.selected.value",
            unit=OF_VALUE,
            empty=_NOT_SELECTED,
            meaning="Headline metric on the selection rows, mean over the runs. The choice is by this.",
        ),
        Column(
            "selection_standard_error",
            "number",
            source="trial.selected.standard_error",
            unit=OF_VALUE,
            empty=_NOT_SELECTED,
            meaning="Mean of the runs' standard errors over the selection examples.",
        ),
        Column(
            "selection_loss",
            "number",
            source="trial.selected.loss",
            unit=NATS,
            empty=_NOT_SELECTED,
            meaning="Loss of the right answers of the selection rows, mean over the runs. It decides between equal values.",
        ),
        Column(
            "selection_examples",
            "integer",
            source="trial.selected.examples",
            unit="selection examples",
            empty=_NOT_SELECTED,
            meaning="Selection examples that were evaluated.",
        ),
        Column(
            "value",
            "number",
            source="value",
            unit=OF_VALUE,
            empty="the training has no run",
            meaning="Headline metric on the validation rows, mean over the runs. Do not choose by it: it is the reported number.",
        ),
        Column(
            "chosen",
            "true/false",
            source="chosen",
            meaning="Whether the other tables, the figures and the sentences report this training.",
        ),
        Column(
            "decided_by",
            "text",
            source="decided_by",
            empty="the training was not chosen, or it is the only one of its cell",
            meaning="value, or what decided between equal values: loss, then order, which is that of the configuration.",
        ),
        Column(
            "obstacle",
            "text",
            source="obstacle",
            empty="the training could be chosen, or it is the only one of its cell",
            meaning="Why the training could not be chosen: a seed that is missing or ended early, a fault, no selection result.",
        ),
    ),
)
