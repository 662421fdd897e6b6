"""Make the tables of the runs: one row per run, per cell, per point of a curve, or per layer.

A cell is model x task x method x sparsity x mode. Its runs differ only in the seed. The columns of a cell:

    runs            number of runs
    n               number of distinct models among them; untrained runs of two seeds are the same model, and count once
    value           mean over the models; value_sd is the standard deviation between them
    value_low       lower end of the 95 % confidence interval of the value; value_high is the upper end
    standard_error  mean of the models' standard errors over the examples; it does not shrink with the number of seeds
    speed           blank if the runs differ in a column of SPEED, because then their mean has no meaning

The confidence interval of one model is Wilson's over the examples. That of several models combines it with Student's t over the
models (statistics.combined_interval). value_interval_from says which of the two it has. The interval of losses and gaps is made
in the same way. Over the examples, they use Student's t with the standard error of a ratio. So does a value that is a loss.

    recovered_share = (tuned - untuned) / (dense tuned - untuned)

"untuned" is the same pruned model without fine-tuning. The share is 0 if fine-tuning recovers nothing, and 1 if it reaches the
dense fine-tuned model. For a mode that does not learn the task, the original model takes the place of the dense fine-tuned one. It
is blank at sparsity 0, if pruning lost nothing, and if a run of the three cells has a fault.

The tables of cells, points, comparisons and layers hold the runs of one setting (settings.by_setting).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sparseft.analysis.columns import CURVES, MISSING, SUMMARY, TABLES
from sparseft.analysis.columns.column import TableDescription
from sparseft.analysis.headlines import gains, is_loss
from sparseft.analysis.judgement import Judged
from sparseft.analysis.probes import probes_over_models, with_probes_mean
from sparseft.analysis.records import Gap, Record
from sparseft.analysis.statistics import combined_interval, proportion_interval, t_interval
from sparseft.methods import sort_key
from sparseft.modes import get_mode
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import DENSE, MODES, NO_FINETUNE
from sparseft.tasks import RECALLS
from sparseft.tasks.metrics import MAJORITY_FLOOR

# The columns that identify a cell, a mask, and a curve over sparsity.
CELL = ["model", "task", "metric", "method", "sparsity", "mode"]
MASKED = ["model", "task", "method", "sparsity"]
LINE = ["model", "task", "metric", "method", "mode"]
INTEGERS = {column.name for table in TABLES for column in table.columns if column.type == "integer"}
# The columns that a speed depends on.
SPEED = ["device", "batch_size", "processes", "gradient_checkpointing", "cache_weights"]
# Those of them that change no result, so that runs of one setting may differ in them.
SPEED_CHOICES = ["gradient_checkpointing", "cache_weights"]
# A smaller difference, of fractions or of nats per token, is rounding, and no share of it can be recovered.
NOTHING_LOST = 1e-9
# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def summary(judged: Iterable[Judged]) -> pd.DataFrame:
    """Return a row per run, in the order model, task, method, sparsity, mode, training, seed."""
    table = pd.DataFrame([SUMMARY.row_of(run) for run in judged])
    # A column without a value in any run would have no type.
    numbers = {name: float for name in table if SUMMARY.type_of(name) == "number"}
    table = with_probes_mean(table.astype(numbers))
    return in_order(tidy(table, ["model", "task", "method", "sparsity", "mode", "training", "seed"]), SUMMARY)


def grouped(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per cell: number of runs and models, mean, standard deviation and interval.

    `runs` has the rows of `summary` for the runs of one setting."""
    same_model = [*CELL, "merged_sha256"]
    ended_early = runs["ended_early"].notna() if "ended_early" in runs else False
    runs = runs.assign(unsound=(runs["faults"] > 0) | ended_early, ended_early=ended_early)
    runs = runs.assign(sound=~runs.groupby(same_model)["unsound"].transform("max"))
    models = runs.drop_duplicates(same_model).groupby(CELL, sort=False)
    table = models.agg(
        n=("seed", "size"),
        n_sound=("sound", "sum"),
        n_ended_early=("ended_early", "sum"),
        examples=("examples", "max"),
        chance=("chance", "first"),
        standard_error=("standard_error", "mean"),
        **{name: (name, "mean") for name in ("reached_sparsity", MAJORITY_FLOOR.name, *RECALLS.values())},
    )
    groups = runs.groupby(CELL, sort=False)
    table.insert(0, "runs", groups.size())
    for name in ("value", "eval_loss", "train_merge_gap", "samples_per_second", "tokens_per_second"):
        table = table.assign(**_over_models(models, table, name))
    table["device"] = groups["device"].agg(_joined)
    table["processes"] = groups["processes"].max()
    comparable = (groups[SPEED].nunique() <= 1).all(axis=1)
    rates = [name for name in table if "per_second" in name]
    table[SPEED_CHOICES] = groups[SPEED_CHOICES].first()
    table[rates + SPEED_CHOICES] = table[rates + SPEED_CHOICES].where(comparable, axis=0)
    table = table.assign(**probes_over_models(models, runs))
    return tidy(table.reset_index(), CELL)


def curves(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per point of a curve over sparsity. The dense cells are point 0 of every curve of their model and task.

    comparisons.judge adds the intervals of the differences, and the verdicts."""
    averaged = ("value", "eval_loss", "train_merge_gap", "samples_per_second")
    cells = cells.rename(columns={f"{name}_mean": name for name in averaged})
    pruned = cells[cells["method"] != DENSE]
    dense = cells[cells["method"] == DENSE].drop(columns=["method"]).rename(columns={"mode": "dense_mode"})
    lines = _lines(cells)
    of_dense = ["model", "task", "metric", "dense_mode"]
    points = pd.concat([pruned.merge(lines, on=LINE), lines.merge(dense, on=of_dense)], ignore_index=True)
    # Every point gets the value of its dense cell, and that of the same pruned model without fine-tuning.
    points = _with_sound_value(points, dense, of_dense, "dense_value")
    untuned = points[points["mode"] == NO_FINETUNE]
    points = _with_sound_value(points, untuned, [name for name in CELL if name != "mode"], "untuned_value")
    points["difference_to_dense"] = (points["value"] - points["dense_value"]).where(points["n_sound"] == points["n"])
    points["recovered_share"] = _recovered_share(points)
    return in_order(tidy(points, [*LINE, "sparsity"]), CURVES)


def layer_sparsity(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row per pruned layer of a model, task, method and sparsity: the share of zeros in the merged models."""
    pruned = [record for record in records if record.run.method != DENSE]
    layer_counts = [len(record.validation.layers["layer"]) for record in pruned]
    # One row per run and layer.
    rows = pd.DataFrame(
        {name: np.repeat([getattr(record.run, name) for record in pruned], layer_counts) for name in MASKED}
    )
    for name in ("layer", "weights", "zeros"):
        rows[name] = [value for record in pruned for value in record.validation.layers[name]]
    rows["share"] = (rows["zeros"] / rows["weights"]).astype(float)
    groups = rows.groupby([*MASKED, "layer"], sort=False)
    table = groups.agg(
        weights=("weights", "first"),
        n=("share", "size"),
        **{f"sparsity_{how}": ("share", how) for how in ("mean", "min", "max")},
    )
    return tidy(table.reset_index(), MASKED)


def missing(gaps: list[Gap]) -> pd.DataFrame:
    """Return a row per run with something missing or unsound, with the reason."""
    return pd.DataFrame(gaps, columns=MISSING.names)


def asked_and_reached(row: tuple) -> str:
    """Return the requested sparsity in percent, as text.

    The sparsity that the masks reached follows in parentheses if it differs at one decimal."""
    reached = f"{100 * row.reached_sparsity:.1f}"
    return f"{row.sparsity}" if reached == f"{row.sparsity}.0" else f"{row.sparsity} ({reached})"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table with ten significant digits. A field without a value is blank.

    A text that a spreadsheet would take for a formula begins with a single quote."""
    for name in table.select_dtypes(exclude="number"):
        formulas = {text for text in table[name].unique() if isinstance(text, str) and text.startswith(_FORMULA)}
        if formulas:
            table = table.assign(**{name: [f"'{cell}" if cell in formulas else cell for cell in table[name]]})
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def tidy(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows in the order of `keys`. Integers stay integers beside blanks."""
    table = table.sort_values(keys, key=_rank, kind="stable", ignore_index=True)
    for name in table:
        if name in INTEGERS and table[name].dtype != "Int64":
            table[name] = table[name].astype("Int64")
    return table


def in_order(table: pd.DataFrame, described: TableDescription) -> pd.DataFrame:
    """Return the columns of `table` in the order of their description. Columns that are added later may be absent."""
    return table[described.in_order(table)]


def _over_models(models: pd.api.typing.DataFrameGroupBy, table: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    """Return the columns with mean, standard deviation and interval of the column `name`, one value per cell.

    `table` holds the number of examples of each cell."""
    mean = models[name].mean()
    columns = {f"{name}_mean": mean, f"{name}_sd": models[name].std()}
    over_seeds = t_interval(mean, models[name].sem(), models[name].count())
    if "per_second" in name:
        low, high = over_seeds
        return columns | {f"{name}_low": np.maximum(low, 0), f"{name}_high": high}
    error = table["standard_error"] if name == "value" else models[f"{name}_standard_error"].mean()
    over_examples = t_interval(mean, error, table["examples"])
    # Only a fraction has the interval of a proportion, and ends at 0 or 1.
    fractions = _has_fractions(table, name)
    if fractions.any():
        of_shares = proportion_interval(mean.where(fractions, 0), table["examples"])
        over_examples = tuple(np.where(fractions, of_shares, over_examples))
    low, high, source = combined_interval(mean, over_seeds, over_examples)
    low = np.where(fractions, np.clip(low, 0, 1), low)
    high = np.where(fractions, np.clip(high, 0, 1), high)
    return columns | {f"{name}_low": low, f"{name}_high": high, f"{name}_interval_from": source}


def _has_fractions(cells: pd.DataFrame, name: str) -> np.ndarray:
    """Return for which cells the column `name` is a fraction: that of the value, unless the metric is a loss."""
    metrics = cells.index.get_level_values("metric")
    return np.array([name == "value" and not is_loss(metric) for metric in metrics])


def _sound(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells without a fault in any of their runs."""
    return cells[cells["n_sound"] == cells["n"]]


def _with_sound_value(points: pd.DataFrame, cells: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """Return the points with the column `name`: the value of the sound cell that agrees in `keys`, or blank."""
    values = _sound(cells).rename(columns={"value": name})
    return points.merge(values[[*keys, name]], how="left", on=keys)


def _lines(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per curve, with the mode of the dense runs at which it starts."""
    pruned = cells[cells["method"] != DENSE]
    pruned_pairs = set(zip(pruned["model"], pruned["task"], strict=True))
    # A model and task with only dense runs is a curve of one point.
    only_dense = [pair not in pruned_pairs for pair in zip(cells["model"], cells["task"], strict=True)]
    lines = pd.concat([pruned, cells[only_dense]])[LINE].drop_duplicates()
    return lines.assign(dense_mode=[get_mode(mode).dense_mode for mode in lines["mode"]])


def _recovered_share(points: pd.DataFrame) -> pd.Series:
    """Return recovered_share by point: the part of what pruning lost that fine-tuning won back."""
    lost = points["dense_value"] - points["untuned_value"]
    # Pruning raises a loss and lowers every other value. The share has the same sign for both.
    is_worse = lost * gains(points) > NOTHING_LOST
    defined = (points["mode"] != NO_FINETUNE) & (points["sparsity"] > 0) & is_worse
    recovered = (points["value"] - points["untuned_value"]).where(points["n_sound"] == points["n"])
    return (recovered / lost.where(defined)).astype(float)


def _rank(column: pd.Series) -> pd.Series:
    """Return sort keys: methods and modes in the order of the study, everything else by its value."""
    if column.name == "mode":
        return column.map(MODES.index, na_action="ignore")
    if column.name == "method":
        return column.map(sort_key, na_action="ignore")
    return column


def _joined(names: pd.Series) -> str | None:
    """Return the different names in alphabetical order, separated by semicolons; None without a name."""
    return "; ".join(sorted(set(names.dropna()))) or None
