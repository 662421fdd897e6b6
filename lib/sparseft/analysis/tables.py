"""The tables: a row per run, per cell, per point of a curve, per layer; a row per batch size.

A cell is model x task x method x sparsity x mode; its runs differ in the seed. Over the seeds:

    runs, n         runs, and distinct models among them: untrained runs of two seeds are the same model, and count once
    value           mean over the models; value_sd is the standard deviation between them
    value_low, _high   ends of a 95 % confidence interval that covers two: Student's t over the models (from two on), and
                    Wilson's over the examples, which all models share. value_interval_from says which one reaches further
    standard_error  mean of the models' standard errors over the examples; it does not shrink with the number of seeds
    speed           blank where the runs of a cell differ in what a speed depends on (SPEED): such a mean says nothing

Losses and gaps have the same two intervals; over the examples it is Student's t with the standard error of a ratio.

recovered_share = (tuned - untuned) / (dense tuned - untuned), untuned being the same pruned model without fine-tuning: 0 when
fine-tuning wins nothing back, 1 when it reaches the dense fine-tuned model. It is blank at sparsity 0, where pruning lost
nothing, and where one of the three has a fault.

The tables of cells, points, comparisons and layers are made for the runs of one setting at a time (settings.by_setting).

The table of batch sizes is measured apart from the runs (throughput.smk), several times each. Over these repeats:
mean, and its 95 % confidence interval by Student's t (low, high), blank for one repeat; the largest peak memory;
the smallest share of its threads' time that a CPU gave the training: far below 1, other work disturbed it. On a CPU the
peak is resident memory and the limit one of private memory, which counts what is reserved and not yet touched, and no
file that is mapped: memory can end below the limit's figure and above it, so each has its `kind` beside it.
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import sem

from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import BatchRecord, Gap, Record, ThroughputRecord
from sparseft.analysis.statistics import proportion_interval, ratio_error, t_interval, union_interval
from sparseft.storage.files import atomic_file
from sparseft.study.grid import DENSE, METHODS, MODES, NO_FINETUNE, Cell
from sparseft.tasks.wikitext2 import PREFIXES

PLAIN_LORA = "sparse_to_dense"  # the mode of the dense fine-tuned runs
CELL = ["model", "task", "metric", "method", "sparsity", "mode"]
MASKED = ["model", "task", "method", "sparsity"]
LINE = ["model", "task", "metric", "method", "mode"]
INTEGERS = [
    "sparsity", "seed", "examples", "peak_memory_bytes", "batch_size", "steps", "violations", "layers_checked",
    "layers_expected", "runs", "n", "n_sound", "processes", "threads", "memory_limit_bytes", "warmup_steps",
    "sequence_length", "evaluation_peak_memory_bytes", "faults", "unchecked", "family_size", "weights", "mask_seed",
    "nm_group", "calibration_examples", "train_examples", "updates", "lora_r", "length_buckets", "micro_batch_size",
    "few_shot", "loss_few_shot", "distinct_prompts",
]  # fmt: skip
TRAINED = [
    "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes", "batch_size",
    "steps", "updates", "learning_rate", "warmup_fraction", "weight_decay", "max_grad_norm", "lora_r", "lora_alpha", "lora_dropout",
    "gradient", "length_buckets", "shard_model", "gradient_checkpointing", "cache_weights", "train_examples", "processes", "backend", "device", "dtype",
]  # fmt: skip
METRICS = [
    "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "f1", "f1_stderr", "recall_no", "recall_no_stderr",
    "recall_yes", "recall_yes_stderr", "majority_floor", "exact_match", "exact_match_stderr",
    "exact_match_flexible-extract", "exact_match_stderr_flexible-extract",
]  # fmt: skip
POINT = [
    "reached_sparsity", "runs", "n", "n_sound", "examples", "chance", "majority_floor", "value", "value_sd", "value_low",
    "value_high", "value_interval_from",
    "standard_error", "dense_value", "difference_to_dense", "difference_low", "difference_high", "verdict",
    "untuned_value", "recovered_share", "eval_loss",
    "eval_loss_sd", "eval_loss_low", "eval_loss_high", "eval_loss_interval_from", "eval_loss_difference", "eval_loss_difference_low", "eval_loss_difference_high",
    "train_merge_gap", "train_merge_gap_sd", "samples_per_second", "samples_per_second_sd", "samples_per_second_low", "samples_per_second_high", "device", "processes",
]  # fmt: skip
SPEED = ["device", "batch_size", "processes", "gradient_checkpointing", "cache_weights"]  # what a speed depends on
JUDGED = [
    "difference_low", "difference_high", "verdict", "eval_loss_difference", "eval_loss_difference_low",
    "eval_loss_difference_high",
]  # fmt: skip
CONDITIONS = ["device", "threads", "processes", "gradient", "sequence_length", "warmup_steps", "steps"]
MEMORY = ["peak_memory_kind", "memory_limit_bytes", "memory_limit_kind"]
NOTHING_LOST = 1e-9  # differences below this are rounding, not a loss that a share could be taken of


def summary(judged: Iterable[Judged]) -> pd.DataFrame:
    """Return a row per run, in the order model, task, method, sparsity, mode, seed."""
    table = pd.DataFrame([_row(each) for each in judged])
    numbers = [name for name in table if name in METRICS or name.startswith(PREFIXES)]
    table[numbers] = table[numbers].astype(float)
    return tidy(table, ["model", "task", "method", "sparsity", "mode", "seed"])


def grouped(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per cell: number of runs and models, mean, standard deviation and interval. `runs` are of one setting."""
    same_model = [*CELL, "merged_sha256"]
    runs = runs.assign(sound=runs.groupby(same_model)["faults"].transform("max") == 0)
    models = runs.drop_duplicates(same_model).groupby(CELL, sort=False)
    table = models.agg(
        n=("seed", "size"),
        n_sound=("sound", "sum"),
        examples=("examples", "max"),
        chance=("chance", "first"),
        standard_error=("standard_error", "mean"),
        **{name: (name, "mean") for name in ("reached_sparsity", "majority_floor", "recall_no", "recall_yes")},
    )
    table.insert(0, "runs", runs.groupby(CELL, sort=False).size())
    for name in ("value", "eval_loss", "train_merge_gap", "samples_per_second", "tokens_per_second"):
        table = table.assign(**_over_models(models, table, name))
    groups = runs.groupby(CELL, sort=False)
    table["device"] = groups["device"].agg(_joined)
    comparable = (groups[SPEED].nunique() <= 1).all(axis=1)
    table["processes"] = groups["processes"].max()
    rates = [name for name in table if "per_second" in name]
    table[rates] = table[rates].where(comparable, axis=0)
    return tidy(table.reset_index(), CELL)


def curves(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per point of a curve over sparsity; the dense cells are point 0 of every curve of their model and task."""
    averaged = ("value", "eval_loss", "train_merge_gap", "samples_per_second")
    cells = cells.rename(columns={f"{name}_mean": name for name in averaged})
    dense = cells[cells["method"] == DENSE].drop(columns=["method"]).rename(columns={"mode": "dense_mode"})
    lines = _lines(cells)
    origin = ["model", "task", "metric", "dense_mode"]
    start = lines.merge(dense, on=origin)
    points = pd.concat([cells[cells["method"] != DENSE].merge(lines, on=LINE), start], ignore_index=True)
    sound_dense = _sound(dense).rename(columns={"value": "dense_value"})
    points = points.merge(sound_dense[[*origin, "dense_value"]], how="left", on=origin)
    place = [name for name in CELL if name != "mode"]
    untuned = _sound(points[points["mode"] == NO_FINETUNE]).rename(columns={"value": "untuned_value"})
    points = points.merge(untuned[[*place, "untuned_value"]], how="left", on=place)
    points["difference_to_dense"] = (points["value"] - points["dense_value"]).where(points["n_sound"] == points["n"])
    points[JUDGED] = None  # what comparisons.judge fills in
    points["recovered_share"] = _recovered_share(points)
    return tidy(points, [*LINE, "sparsity"])[[*LINE, "sparsity", *POINT]]


def throughput(measurements: Iterable[ThroughputRecord]) -> pd.DataFrame:
    """Return a row per cell and batch size; tokens per second are without padding."""
    table = pd.DataFrame([_batch_row(each, batch) for each in measurements for batch in each.batches])
    return tidy(table, ["model", "task", "method", "sparsity", "mode", "device", "batch_size"])


def layer_sparsity(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row per pruned layer of a model, task, method and sparsity: the share of zeros in the merged models."""
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
    """Return a row per run with something missing or malformed, with the reason."""
    return pd.DataFrame(gaps, columns=[field.name for field in fields(Gap)])


def asked_and_reached(row: tuple) -> str:
    """Return the sparsity asked for, percent, and in parentheses the one that the masks reached, where it differs by a tenth."""
    reached = 100 * row.reached_sparsity
    return f"{row.sparsity}" if abs(reached - row.sparsity) < 0.1 else f"{row.sparsity} ({reached:.1f})"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table: ten significant digits, blanks where there is no value."""
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def _row(judged: Judged) -> dict:
    record = judged.record
    run, train, merge = record.run, record.train, record.merge
    validation, evaluation = record.validation, record.evaluation
    mask = validation.mask
    perplexities = {name: value for name, value in evaluation.metrics.items() if name.startswith(PREFIXES)}
    return {
        "run_id": run.id,
        **vars(run),
        "in_study": judged.outside is None,
        "reached_sparsity": validation.expected_sparsity,
        "actual_sparsity": validation.actual_sparsity,
        "mask_scope": mask.scope,
        "mask_seed": mask.seed,
        "mask_sequential": mask.sequential,
        "nm_group": mask.nm_group,
        "calibration_examples": mask.calibration_examples,
        **{name: getattr(evaluation, name) for name in ("metric", "value", "standard_error", "examples", "chance")},
        **{name: evaluation.metrics.get(name) for name in METRICS},
        **perplexities,
        "distinct_prompts": evaluation.distinct_prompts,
        "harness": evaluation.harness,
        "few_shot": evaluation.few_shot,
        "loss_few_shot": evaluation.loss_few_shot,
        "eval_loss": evaluation.eval_loss,
        "eval_loss_standard_error": ratio_error(evaluation.losses, evaluation.answer_tokens),
        "eval_loss_before_merge": record.before.eval_loss if record.before else None,
        "train_merge_gap": record.train_merge_gap,
        "train_merge_gap_standard_error": _gap_error(record),
        "value_before_merge": record.before.value if record.before else None,
        "train_merge_gap_value": record.train_merge_gap_value,
        "final_train_loss": train.final_loss if train else None,
        **{name: getattr(train, name) if train else None for name in TRAINED},
        "micro_batch_size": _whole(train.micro_batch_size) if train else None,
        "lora_targets": " ".join(train.lora_targets) or "all" if train else None,
        "version": train.versions.get("sparseft") if train else None,
        "evaluation_device": evaluation.device,
        "evaluation_dtype": evaluation.dtype,
        "evaluation_seconds": evaluation.seconds,
        "evaluation_peak_memory_bytes": evaluation.peak_memory_bytes,
        "validated": validation.passed,
        **{name: getattr(validation, name) for name in ("violations", "layers_checked", "layers_expected")},
        "model_sha256": merge.inputs.model if merge else None,
        "mask_sha256": validation.inputs.mask,
        "adapter_sha256": train.outputs.adapter if train else None,
        "train_sha256": evaluation.inputs.train,
        "data_sha256": evaluation.inputs.data,
        "merged_sha256": validation.merged_digest,
        "unchecked": len(judged.unchecked),
        "faults": len(judged.faults),
    }


def _whole(number: int | str) -> int | None:
    """Return a number, or None for "auto"."""
    return number if isinstance(number, int) else None


def _gap_error(record: Record) -> float | None:
    """Return the standard error of the train-merge gap of the loss, over the examples; None where there is no gap."""
    after, before = record.evaluation, record.before
    if before is None or not np.array_equal(after.answer_tokens, before.answer_tokens):
        return None
    return ratio_error(after.losses - before.losses, after.answer_tokens)


def _over_models(models: pd.api.typing.DataFrameGroupBy, table: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    """Return mean, sd and interval of a column by cell; `table` has the cells' other numbers."""
    mean, count = models[name].mean(), models[name].count()
    columns = {f"{name}_mean": mean, f"{name}_sd": models[name].std()}
    over_seeds = t_interval(mean, models[name].sem(), count)
    if "per_second" in name:
        return columns | {f"{name}_low": np.maximum(over_seeds[0], 0), f"{name}_high": over_seeds[1]}
    if name == "value":
        over_examples = proportion_interval(mean, table["examples"])
    else:
        over_examples = t_interval(mean, models[f"{name}_standard_error"].mean(), table["examples"])
    low, high, source = union_interval(over_seeds, over_examples)
    if name == "value":
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return columns | {f"{name}_low": low, f"{name}_high": high, f"{name}_interval_from": source}


def _sound(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells none of whose runs has a fault."""
    return cells[cells["n_sound"] == cells["n"]]


def _batch_row(measurement: ThroughputRecord, batch: BatchRecord) -> dict:
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
    """Return the mean of `values`, (repeats,), and the ends of its 95 % confidence interval."""
    mean = values.mean() if len(values) else None
    low, high = t_interval(mean, sem(values), len(values)) if len(values) > 1 else (None, None)
    return {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}


def _lines(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the curves, each with the mode of the dense runs that it starts from."""
    pruned = cells[cells["method"] != DENSE]
    places = set(zip(pruned["model"], pruned["task"], strict=True))
    # A model and task with dense runs only is a curve of its own, of one point.
    alone = [key not in places for key in zip(cells["model"], cells["task"], strict=True)]
    lines = pd.concat([pruned, cells[alone]])[LINE].drop_duplicates()
    return lines.assign(dense_mode=lines["mode"].where(lines["mode"] == NO_FINETUNE, PLAIN_LORA))


def _recovered_share(points: pd.DataFrame) -> pd.Series:
    lost = points["dense_value"] - points["untuned_value"]
    defined = (points["mode"] != NO_FINETUNE) & (points["sparsity"] > 0) & (lost > NOTHING_LOST)
    won = (points["value"] - points["untuned_value"]).where(points["n_sound"] == points["n"])
    return (won / lost.where(defined)).astype(float)


def tidy(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows in the order of `keys`; whole numbers stay whole where some are blank."""
    numbers = {name: "Int64" for name in INTEGERS if name in table}
    return table.astype(numbers).sort_values(keys, key=_rank, kind="stable", ignore_index=True)


def _rank(column: pd.Series) -> pd.Series:
    """Return sort keys: methods and modes in the order of the study, everything else by its value."""
    if column.name == "mode":
        return column.map(MODES.index, na_action="ignore")
    if column.name == "method":
        return column.map((DENSE, *METHODS).index, na_action="ignore")
    return column


def _joined(names: pd.Series) -> str | None:
    return "; ".join(sorted(set(names.dropna()))) or None
