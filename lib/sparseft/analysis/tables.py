"""The tables: a row a run, a row a cell, a row a point of a curve, a row a layer; a row a batch size.

A cell is model x task x method x sparsity x mode; its runs differ in the seed alone. Over seeds:

    value           mean of the runs' values; value_sd is the standard deviation between them, value_low and value_high
                    the ends of the 95 % confidence interval of the mean by Student's t: blank for one run
    standard_error  mean of the runs' standard errors over the examples. All seeds see the same examples, so this
                    part of the error does not shrink with the number of seeds
    speed           blank where the runs of a cell differ in device, batch size or processes: such a mean says nothing

recovered_share = (tuned - untuned) / (dense tuned - untuned), untuned being the same pruned model without
fine-tuning: 0 when fine-tuning wins nothing back, 1 when it reaches the dense fine-tuned model. It is blank at
sparsity 0 and where pruning lost nothing.

The table of batch sizes is measured apart from the runs (throughput.smk), several times each. Over these repeats:
mean, and its 95 % confidence interval by Student's t (low, high), blank for one repeat; the largest peak memory;
the smallest share of its threads' time that a CPU gave the training: far below 1, other work disturbed it. On a CPU the
peak is resident memory and the limit one of private memory, which counts what is reserved and not yet touched, and no
file that is mapped: memory can end below the limit's figure and above it, so each has its `kind` beside it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import sem

from sparseft.analysis.records import PERPLEXITY, Batch, Gap, Measurement, Record
from sparseft.analysis.statistics import t_interval
from sparseft.files import atomic_file
from sparseft.grid import DENSE, METHODS, MODES, NO_FINETUNE, Cell

PLAIN_LORA = "sparse_to_dense"  # the mode of the dense fine-tuned runs
CELL = ["model", "task", "metric", "method", "sparsity", "mode"]
MASKED = ["model", "task", "method", "sparsity"]
LINE = ["model", "task", "metric", "method", "mode"]
INTEGERS = [
    "sparsity", "seed", "examples", "peak_memory_bytes", "batch_size", "steps", "violations", "layers_checked",
    "layers_expected", "n", "n_sound", "processes", "threads", "memory_limit_bytes", "warmup_steps",
    "sequence_length", "evaluation_peak_memory_bytes", "faults", "family_size", "weights",
]  # fmt: skip
TRAINED = [
    "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes", "batch_size", "steps", "gradient",
    "processes", "backend", "device",
]  # fmt: skip
METRICS = [
    "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "f1", "f1_stderr", "recall_no", "recall_no_stderr",
    "recall_yes", "recall_yes_stderr", "majority_floor", "exact_match", "exact_match_stderr",
    "exact_match_flexible-extract", "exact_match_stderr_flexible-extract",
]  # fmt: skip
POINT = [
    "n", "n_sound", "examples", "chance", "majority_floor", "value", "value_sd", "value_low", "value_high",
    "standard_error", "dense_value", "difference_to_dense", "difference_low", "difference_high", "verdict",
    "untuned_value", "recovered_share", "eval_loss",
    "eval_loss_sd", "eval_loss_low", "eval_loss_high", "eval_loss_difference", "eval_loss_difference_low", "eval_loss_difference_high",
    "train_merge_gap", "train_merge_gap_sd", "samples_per_second", "samples_per_second_sd", "samples_per_second_low", "samples_per_second_high", "device",
]  # fmt: skip
JUDGED = [
    "difference_low", "difference_high", "verdict", "eval_loss_difference", "eval_loss_difference_low",
    "eval_loss_difference_high",
]  # fmt: skip
CONDITIONS = ["device", "threads", "processes", "gradient", "sequence_length", "warmup_steps", "steps"]
MEMORY = ["peak_memory_kind", "memory_limit_bytes", "memory_limit_kind"]
NOTHING_LOST = 1e-9  # differences below this are rounding, not a loss that a share could be taken of


def summary(judged: Iterable[tuple[Record, list[str]]]) -> pd.DataFrame:
    """A row a run, in the order model, task, method, sparsity, mode, seed; `judged` as memo.judge_runs gives it."""
    table = pd.DataFrame([_row(record) | {"faults": len(faults)} for record, faults in judged])
    numbers = [name for name in table if name in METRICS or name.startswith(PERPLEXITY)]
    table[numbers] = table[numbers].astype(float)
    return tidy(table, ["model", "task", "method", "sparsity", "mode", "seed"])


def grouped(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: number of runs, mean, standard deviation and interval over the seeds."""
    groups = runs.groupby(CELL, sort=False)
    table = groups.agg(
        n=("seed", "size"),
        n_sound=("faults", lambda faults: (faults == 0).sum()),
        examples=("examples", "max"),
        chance=("chance", "first"),
        standard_error=("standard_error", "mean"),
        **{name: (name, "mean") for name in ("majority_floor", "recall_no", "recall_yes")},
    )
    for name in ("value", "eval_loss", "train_merge_gap", "samples_per_second", "tokens_per_second"):
        mean, error = groups[name].mean(), groups[name].sem()
        low, high = t_interval(mean, error, groups[name].count())
        over_seeds = {"mean": mean, "sd": groups[name].std(), "low": low, "high": high}
        table = table.assign(**{f"{name}_{short}": values for short, values in over_seeds.items()})
    table["device"] = groups["device"].agg(_joined)
    alike = (groups[["device", "batch_size", "processes"]].nunique() <= 1).all(axis=1)
    rates = [name for name in table if "per_second" in name]
    table[rates] = table[rates].where(alike, axis=0)
    return tidy(table.reset_index(), CELL)


def curves(cells: pd.DataFrame) -> pd.DataFrame:
    """A row a point of a curve over sparsity; the dense cells are point 0 of every curve of their model and task."""
    averaged = ("value", "eval_loss", "train_merge_gap", "samples_per_second")
    cells = cells.rename(columns={f"{name}_mean": name for name in averaged})
    dense = cells[cells["method"] == DENSE].drop(columns=["method"]).rename(columns={"mode": "dense_mode"})
    lines = _lines(cells)
    origin = ["model", "task", "metric", "dense_mode"]
    start = lines.merge(dense, on=origin)
    points = pd.concat([cells[cells["method"] != DENSE].merge(lines, on=LINE), start], ignore_index=True)
    dense = dense.rename(columns={"value": "dense_value"})
    points = points.merge(dense[[*origin, "dense_value"]], how="left", on=origin)
    place = [name for name in CELL if name != "mode"]
    untuned = points[points["mode"] == NO_FINETUNE].rename(columns={"value": "untuned_value"})
    points = points.merge(untuned[[*place, "untuned_value"]], how="left", on=place)
    points["difference_to_dense"] = points["value"] - points["dense_value"]
    points[JUDGED] = None  # what comparisons.judge fills in
    points["recovered_share"] = _recovered_share(points)
    return tidy(points, [*LINE, "sparsity"])[[*LINE, "sparsity", *POINT]]


def throughput(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """A row a cell and batch size; tokens a second are without padding."""
    table = pd.DataFrame([_batch_row(each, batch) for each in measurements for batch in each.batches])
    return tidy(table, ["model", "task", "method", "sparsity", "mode", "device", "batch_size"])


def layer_sparsity(records: Iterable[Record]) -> pd.DataFrame:
    """A row a pruned layer of a model, task, method and sparsity: the share of zeros in the merged models, over the runs."""
    pruned = [record for record in records if record.run.method != DENSE]
    counts = [len(record.validation.layers["layer"]) for record in pruned]
    rows = pd.DataFrame({name: np.repeat([getattr(record.run, name) for record in pruned], counts) for name in MASKED})
    for name in ("layer", "weights", "zeros"):
        rows[name] = [value for record in pruned for value in record.validation.layers[name]]
    rows = rows.assign(found=(rows["zeros"] / rows["weights"]).astype(float))
    groups = rows.groupby([*MASKED, "layer"], sort=False)
    table = groups.agg(
        weights=("weights", "first"),
        n=("found", "size"),
        **{f"sparsity_{how}": ("found", how) for how in ("mean", "min", "max")},
    )
    return tidy(table.reset_index(), MASKED)


def missing(gaps: list[Gap]) -> pd.DataFrame:
    """A row a run with something missing or malformed, with the reason."""
    return pd.DataFrame(gaps, columns=[field.name for field in fields(Gap)])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table: ten significant digits, blanks where there is no value."""
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def files_digest(files: dict[str, str] | None) -> str | None:
    """Return one sha256 for a merged model: that of what `sha256sum` prints for its files, weights, configuration and
    tokenizer, in order of their names; a single file has its own."""
    if not files or len(files) == 1:
        return next(iter(files.values())) if files else None
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _row(record: Record) -> dict:
    run, train, merge = record.run, record.train, record.merge
    validation, evaluation = record.validation, record.evaluation
    perplexities = {name: value for name, value in evaluation.metrics.items() if name.startswith(PERPLEXITY)}
    return {
        "run_id": run.id,
        **vars(run),
        "actual_sparsity": validation.actual_sparsity,
        "mask_scope": validation.mask.scope,
        "mask_sequential": validation.mask.sequential,
        **{name: getattr(evaluation, name) for name in ("metric", "value", "standard_error", "examples", "chance")},
        **{name: evaluation.metrics.get(name) for name in METRICS},
        **perplexities,
        "eval_loss": evaluation.eval_loss,
        "eval_loss_before_merge": record.before.eval_loss if record.before else None,
        "train_merge_gap": record.train_merge_gap,
        "value_before_merge": record.before.value if record.before else None,
        "train_merge_gap_value": record.train_merge_gap_value,
        "final_train_loss": train.final_loss if train else None,
        **{name: getattr(train, name) if train else None for name in TRAINED},
        "evaluation_device": evaluation.device,
        "evaluation_seconds": evaluation.seconds,
        "evaluation_peak_memory_bytes": evaluation.peak_memory_bytes,
        "validated": validation.passed,
        **{name: getattr(validation, name) for name in ("violations", "layers_checked", "layers_expected")},
        "model_sha256": merge.inputs.model if merge else None,
        "mask_sha256": validation.inputs.mask,
        "adapter_sha256": train.outputs.adapter if train else None,
        "data_sha256": evaluation.inputs.data,
        "merged_sha256": files_digest(merge.outputs if merge else None),
    }


def _batch_row(measurement: Measurement, batch: Batch) -> dict:
    repeats = batch.repeats
    samples, tokens, padded = (
        np.array([getattr(each, name) for each in repeats]) for name in ("samples", "tokens", "padded_tokens")
    )
    seconds = np.array([each.seconds for each in repeats])
    return {
        **vars(Cell.parse(measurement.cell)),
        **{name: getattr(measurement, name) for name in CONDITIONS},
        "dtype": repeats[0].dtype if repeats else None,
        "batch_size": batch.batch_size,
        "status": batch.status,
        "n": len(repeats),
        **_interval("samples_per_second", samples / seconds),
        **_interval("tokens_per_second", tokens / seconds),
        "tokens_per_sample": tokens.sum() / samples.sum() if repeats else None,
        "tokens_per_sample_padded": padded.sum() / samples.sum() if repeats else None,
        "peak_memory_bytes": max((each.peak_memory_bytes for each in repeats), default=None),
        **{name: getattr(measurement, name) for name in MEMORY},
        "cpu_share": min((each.cpu_share for each in repeats if each.cpu_share is not None), default=None),
        "reason": batch.reason,
    }


def _interval(name: str, values: np.ndarray) -> dict[str, float | None]:
    """Mean and ends of the 95 % confidence interval of `values`, (repeats,)."""
    mean = values.mean() if len(values) else None
    low, high = t_interval(mean, sem(values), len(values)) if len(values) > 1 else (None, None)
    return {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}


def _lines(cells: pd.DataFrame) -> pd.DataFrame:
    """The curves that there are, each with the mode of the dense runs that it starts from."""
    pruned = cells[cells["method"] != DENSE]
    places = set(zip(pruned["model"], pruned["task"], strict=True))
    # A model and task with dense runs only is a curve of its own, of one point.
    alone = [key not in places for key in zip(cells["model"], cells["task"], strict=True)]
    lines = pd.concat([pruned, cells[alone]])[LINE].drop_duplicates()
    return lines.assign(dense_mode=lines["mode"].where(lines["mode"] == NO_FINETUNE, PLAIN_LORA))


def _recovered_share(points: pd.DataFrame) -> pd.Series:
    lost = points["dense_value"] - points["untuned_value"]
    defined = (points["mode"] != NO_FINETUNE) & (points["sparsity"] > 0) & (lost > NOTHING_LOST)
    return ((points["value"] - points["untuned_value"]) / lost.where(defined)).astype(float)


def tidy(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows in the order of `keys`, whole numbers as such also where some are blank."""
    numbers = {name: "Int64" for name in INTEGERS if name in table}
    return table.astype(numbers).sort_values(keys, key=_rank, kind="stable", ignore_index=True)


def _rank(column: pd.Series) -> pd.Series:
    """Methods and modes in the order of the study, everything else by its value."""
    if column.name == "mode":
        return column.map(MODES.index, na_action="ignore")
    if column.name == "method":
        return column.map((DENSE, *METHODS).index, na_action="ignore")
    return column


def _joined(names: pd.Series) -> str | None:
    return "; ".join(sorted(set(names.dropna()))) or None
