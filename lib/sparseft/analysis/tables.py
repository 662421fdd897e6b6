"""Compute, order, describe and write the tables of a study.

One name stands for one thing, in one unit, in all tables, and they join on the columns of a cell (cells.KEYS). A column that is
a field of a record has that field's description. Sparsities are in percent of the prunable weights, shares are fractions, and
losses are in nats per answer token.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from sparseft.analysis.cells import KEYS, pool
from sparseft.analysis.comparisons import COMPARISONS, compare_cells, curves
from sparseft.analysis.engines import COLUMNS as ENGINE_COLUMNS
from sparseft.analysis.study import OUTSIDE, Frames, in_order
from sparseft.analysis.throughput import measured_seconds
from sparseft.errors import InputError
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.throughput_record import BatchRecord, RepeatRecord, ThroughputRecord
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.atomic import atomic_file
from sparseft.study.config import Analysis, Config
from sparseft.study.grid import DENSE
from sparseft.tasks import get_metric
from sparseft.tasks.metrics import PERPLEXITIES

# Where the columns of the study's own metrics, of a perplexity and of the probes stand in a table.
MEASURED = "[metrics]"
RUN = ["study", "run_id", "model", "task", "method", "sparsity", "mode", "training", "seed"]
# The fields of the records that are columns of summary.csv, by the name of the column.
FIELDS: dict[str, Any] = {
    field.json_schema_extra["column"]: field
    for record in (EvaluationRecord, ValidationRecord, TrainingRecord)
    for field in cast(dict[str, Any], record.model_fields).values()
    if field.json_schema_extra["column"]
}
RUNS = [*RUN, "setting", *FIELDS, MEASURED, *"value_before_merge train_merge_gap reached_sparsity".split()]
RUNS += "parameters_left train_loss selection_value chosen status".split()
CELLS = [*KEYS, *"seeds examples chance value value_low value_high eval_loss eval_loss_low eval_loss_high".split()]
CELLS += "divergence divergence_low divergence_high same_top_tokens".split()
CELLS += "value_before_merge train_merge_gap reached_sparsity parameters parameters_left model_bytes".split()
CELLS += [MEASURED, "training_tokens", "measured_seconds"]
CELLS += "samples_per_second tokens_per_second selection_value selection_eval_loss selection_examples".split()
CELLS += "trainings_tried chosen decided_by obstacle pareto status".split()
CURVES = [*KEYS, *"reached_sparsity seeds value value_low value_high dense_value difference difference_low".split()]
CURVES += "difference_high verdict untuned_value recovered_share recovered_low recovered_high".split()
CURVES += "eval_loss samples_per_second pareto".split()
MISSING = ["study", "run_id", "left_out", "reason"]
FILES = {
    "summary.csv": ("runs", RUNS),
    "grouped_summary.csv": ("cells", CELLS),
    "comparisons.csv": ("comparisons", COMPARISONS),
    "sparsity_vs_performance.csv": ("curves", CURVES),
    "missing.csv": ("missing", MISSING),
}
INTEGERS = {"sparsity", "seed", "examples", "seeds", "peak_memory_bytes", "selection_examples", "trainings_tried"}
INTEGERS |= {"against_sparsity", "comparisons", "parameters", "parameters_left", "model_bytes"}
# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

# The unit and the description of each column that is not one field of one record.
MEANINGS = {
    "study": ("", "Folder of the results that the row belongs to."),
    "run_id": ("", "Name of the run's folder."),
    "model": ("", "Key of `models` in the configuration."),
    "task": ("", "Key of `grid.tasks` in the configuration."),
    "method": ("", "What is removed, and by which importance; dense keeps every weight."),
    "sparsity": ("% of the prunable weights", "Sparsity that was requested."),
    "mode": ("", "How the model was fine-tuned: no_finetune, sparse_to_dense, sparse_to_sparse and so on."),
    "training": ("", "Name in `grid.trainings`; empty if the study names none."),
    "seed": ("", "Seed of the training."),
    "setting": ("", "The settings in which runs of its model and task differ; empty if all agree. Only runs that agree in"
                " every setting that both have are pooled or compared."),
    "value_before_merge": ("as value", "Value of the trained model before the merge, on the same examples."),
    "train_merge_gap": ("nats per token", "Loss after the merge minus before it; 0 but for rounding if the merge is exact."),
    "reached_sparsity": ("% of the prunable weights", "Sparsity of the mask, or the share of removed weights, which may differ"
                         " from the requested one."),
    "parameters_left": ("", "The parameters without the channels that a structured mask prunes. An export keeps some of them."),
    "train_loss": ("nats per token", "Training loss, mean over the last tenth of the steps."),
    "training_tokens": ("tokens", "Tokens that the training read, without padding, with those of a run that it continues."),
    "measured_seconds": ("s", "Time of the training at the speed that the stage throughput measured for it."),
    "reconstruction_error": ("fraction", "Error of the decoder layers' outputs, as a share of that before; a mean over them."),
    "chosen": ("", "Whether the tables, pages and figures report this training of the cell."),
    "status": ("", "sound, not fully checked, ended early, fault, or outside the study; that of the worst run of a cell."),
    "seeds": ("models", "Number of different models: seeds of a trained cell, 1 of an untrained one."),
    "decided_by": ("", "What decided for the chosen training: value, loss or order; empty without a choice."),
    "obstacle": ("", "Why a training could not be chosen."),
    "trainings_tried": ("trainings", "Number of trainings of the cell."),
    "pareto": ("", "Whether no other reported cell of the study, model, task, metric and setting is both sparser and better."),
    "question": ("", "What the comparison answers: dense, original, untuned, methods, against, modes or studies."),
    "difference": ("as value", "Value minus that of the other cell, over the same examples or windows."),
    "p_value": ("", "Two-sided p of the difference."),
    "p_holm": ("", "p after Holm's correction for the comparisons of the question."),
    "comparisons": ("comparisons", "Comparisons of the same question on the model, task and metric, by all measures."),
    "measure": ("", "What is compared: value, eval_loss or divergence. The columns value and difference hold it."),
    "verdict": ("", "lower, higher, within (the tolerance of dense), equal here (the same on each example), not told apart, or"
                " dense guesses."),
    "rows_needed": ("rows", "Examples, or windows, that show a difference of the tolerance in 80 of 100 studies, if the"
                    " differences vary as here."),
    "dense_value": ("as value", "Value of the dense cell that the cell is compared with."),
    "untuned_value": ("as value", "Value of the same pruned model without fine-tuning."),
    "recovered_share": ("fraction", "Share of what pruning lost that fine-tuning recovered; 1 reaches dense."),
    "tokens_per_sample": ("tokens", "Mean length of an example."),
    "tokens_per_sample_padded": ("tokens", "The same with padding."),
    "low": ("as value", "Lower end of the 95 % confidence interval of value."),
    "high": ("as value", "Upper end of the 95 % confidence interval of value."),
    "baseline_value": ("as value", "The number that is compared."),
    "inside": ("", "Whether that number lies in the interval; empty without an interval."),
    "tolerance": ("as value", "The difference at which that number counts as reproduced, by its file."),
    "reproduction": (
        "",
        "reproduced (inside the interval or the tolerance), sources disagree (ours is between them or agrees with one),"
        " not reproduced, or not run.",
    ),
    "source": ("", "Where that number is from."),
    "note": ("", "What its file says of it, such as the reason of the tolerance."),
    "left_out": ("", "Whether the run is in no table."),
    "reason": ("", "What is missing, unreadable or contradictory."),
}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Hold the tables of a study. `faults` has every fault of a run, and `checks` what was checked in numbers.

    `options` say what the tables and pages judge by."""

    runs: pd.DataFrame
    cells: pd.DataFrame
    comparisons: pd.DataFrame
    curves: pd.DataFrame
    settings: pd.DataFrame
    missing: pd.DataFrame
    faults: pd.DataFrame
    measured: list[str]
    configuration: Config | None
    options: Analysis
    checks: dict[str, object]


def compute(
    frames: Frames,
    options: Analysis,
    configuration: Config | None = None,
    measurements: Sequence[ThroughputRecord] = (),
) -> Results:
    """Return the tables of a study. Raises InputError if no training of any cell can be chosen."""
    runs = frames.runs.assign(measured_seconds=measured_seconds(frames.runs, measurements))
    cells = pool(replace(frames, runs=runs))
    if not cells.frame["chosen"].any():
        first = cells.frame.iloc[0]
        raise InputError(
            f"no training of any cell can be chosen, for example {first.training} of {first.method} at"
            f" {first.sparsity} %, {first['mode']}: {first.obstacle}",
            "make the missing and faulty runs again",
        )
    # statsmodels collects garbage in every correction, which takes long with a whole study in memory.
    gc.freeze()
    if options.against is not None and options.against not in set(cells.frame["method"]) - {DENSE}:
        raise InputError(f"--against {options.against}: not a pruned method of the study", "name one of its methods")
    if options.wished_speedup and not configuration:
        what = "--wished_speedup needs the configuration of one study, which says what each model was made from"
        raise InputError(what, "give --configuration to analyze_results.py, or leave it out")
    comparisons = compare_cells(cells, options.tolerance, options.compare, options.against)
    members = runs[runs["status"] != OUTSIDE]
    chosen = runs.join(cells.frame.set_index(KEYS)["chosen"], on=KEYS)["chosen"].fillna(False).astype(bool)
    return Results(
        runs=complete(in_order(runs.assign(chosen=chosen & (runs["status"] != OUTSIDE))), RUNS),
        cells=complete(cells.frame, CELLS),
        comparisons=comparisons,
        curves=complete(curves(cells, comparisons), CURVES),
        settings=settings_table(in_order(runs)),
        missing=missing_table(frames.faults),
        faults=frames.faults,
        measured=frames.measured,
        configuration=configuration,
        options=options,
        checks={
            "date": members["date"].max(),
            "runs": len(members),
            **members[["passed", "weights", "violations"]].sum().astype(int),
        },
    )


def write_tables(results: Results, folder: Path) -> None:
    """Write every table into a folder, as a .csv file."""
    for file, (name, columns) in FILES.items():
        write_csv(ordered(getattr(results, name), columns, results.measured if MEASURED in columns else []), folder / file)
    write_csv(results.settings, folder / "settings.csv")


def describe(column: str) -> tuple[str, str]:
    """Return the unit and the meaning of a column."""
    for start, words in (("against_", "of the other cell"), ("selection_", "on the selection rows")):
        if column.startswith(start):
            unit, meaning = describe(column.removeprefix(start))
            return unit, f"{meaning.rstrip('.')}, {words}."
    for end, words in (("_low", "Lower"), ("_high", "Upper")):
        if column.endswith(end):
            name = column.removesuffix(end).replace("recovered", "recovered_share")
            return describe(name)[0], f"{words} end of the 95 % confidence interval of {name}."
    if column in MEANINGS:
        return MEANINGS[column]
    for fields in (FIELDS, *(part.model_fields for part in (ThroughputRecord, BatchRecord, RepeatRecord))):
        if field := fields.get(column):
            return field.json_schema_extra["unit"], field.description
    if column in ENGINE_COLUMNS:
        return ENGINE_COLUMNS[column]
    if column.startswith("overlap_"):
        return "fraction", "Share of the probe's examples that the model has seen."
    metric = get_metric(column)
    return metric.unit, metric.meaning


def measured_columns(table: pd.DataFrame, measured: Sequence[str]) -> list[str]:
    """Return the columns of a table that depend on the study, with their intervals, the perplexities and probes at the end."""
    ends = [f"{name}{end}" for name in measured for end in ("", "_low", "_high")]
    names = [name for name in table if name in ends and table[name].notna().any()]
    return sorted(names, key=lambda name: (name.startswith("probe_"), name.startswith(PERPLEXITIES)))


def complete(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return a table with every column of `names`; one that no run has is empty."""
    return table.assign(**{name: np.nan for name in names if name not in table and name != MEASURED})


def ordered(table: pd.DataFrame, names: list[str], measured: Sequence[str]) -> pd.DataFrame:
    """Return the columns of a table in their order; one that no run has is empty. Integers stay integers beside blanks."""
    place = names.index(MEASURED) if MEASURED in names else len(names)
    columns = [*names[:place], *measured_columns(table, measured), *names[place + 1 :]]
    table = table.reindex(columns=columns)
    return table.astype({name: "Int64" for name in columns if name in INTEGERS})


def settings_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run with its settings, the digests of its chain, and the versions that trained it."""
    rows = []
    for run in runs.itertuples():
        row = {
            ".".join(filter(None, key)): ", ".join(value) if isinstance(value, tuple) else value
            for key, value in run.settings.items()
        }
        row |= {f"sha256.{name}": next(iter(named.values()), None) for name, named in run.links.items()}
        rows.append(row | {f"version.{name}": version for name, version in run.versions.items()})
    # As objects, because an integer beside a blank would become a float.
    table = pd.DataFrame(rows, index=runs.index, dtype=object)
    return runs[RUN].join(table[sorted(table)].dropna(axis=1, how="all"))


def missing_table(faults: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run that lacks something, or that cannot be read."""
    rows = faults[faults["kind"].isin(["missing", "incomplete"])]
    groups = rows.groupby(["study", "run_id"], sort=False)
    table = groups.agg(left_out=("kind", lambda kinds: "missing" in set(kinds)), reason=("text", " | ".join))
    return table.reset_index().reindex(columns=MISSING)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table with ten significant digits. A field without a value is blank.

    A text that a spreadsheet would take for a formula begins with a single quote."""
    for name in table.select_dtypes(exclude=["number", "bool"]):
        formulas = {text for text in table[name].unique() if isinstance(text, str) and text.startswith(_FORMULA)}
        if formulas:
            table = table.assign(**{name: [f"'{cell}" if cell in formulas else cell for cell in table[name]]})
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
