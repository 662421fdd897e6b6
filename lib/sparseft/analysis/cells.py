"""Pool the runs of a cell: its values with their intervals and the choice of its training.

A cell has the runs that differ in the seed alone. Runs of the same model, such as untrained runs of two seeds, count
once.

A study can train each cell with several trainings (`grid.trainings`). Tables and pages report one of them: the one with
the best mean on the selection rows. Equal means are decided by the mean loss there, then by the order of the
configuration. The reported validation rows took no part in the choice, so a test on them needs no correction for the
number of trainings. A training cannot be chosen if a run of it is missing, has a fault, or has no result on the
selection rows."""

import numpy as np
import pandas as pd

from sparseft.analysis.statistics import Scores, interval, mean_interval, pooled_spread
from sparseft.analysis.study import MEASURED, MEASURES, POOLED, REPEATED, SOUND, Frames, in_order
from sparseft.axes.grid import DENSE, NO_FINETUNE
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import get_metric
from sparseft.axes.tasks.metrics import LOSS
from sparseft.data.settings import DIVERGENCE

PLACE = ["study", "model", "task", "metric"]
CELL = [*PLACE, "method", "sparsity", "mode", "setting"]
KEYS = [*CELL, "training"]
# The columns of grouped_summary.csv.
CELLS = [*KEYS, "seeds"]
CELLS += [f"{name}{end}" for name in POOLED for end in (("", "_low", "_high") if name in MEASURES else ("",))]
CELLS += [MEASURED, *"value_before_merge train_merge_gap reached_sparsity parameters_left".split()]
CELLS += "selection_value selection_eval_loss selection_examples trainings_tried chosen decided_by obstacle".split()
CELLS += ["status"]
# Means are compared after rounding to this many decimals, because sums in another order differ in the last bits.
DECIMALS = 12
NO_SELECTION = "a run has no result on the selection rows"
# Equal in all runs of a cell.
_FIRST = ["original", "examples", "chance", "settings", "device", "selection_examples"]
# What one device took. Its mean over several devices would be that of none.
_OF_DEVICE = ["device", "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes"]


def pool(frames: Frames) -> pd.DataFrame:
    """Return the cells of a study, or of several, a row each.

    The columns `scores` and `spreads` have by a column of the cell (value, eval_loss, divergence or a probe) the scores
    behind it, and how much the seeds of the place vary in it."""
    # A cell has the status of its worst run.
    worst = frames.runs.groupby(KEYS, dropna=False).agg({"status": "min", "repeated_prompts": "max"})
    runs = frames.runs.drop_duplicates([*KEYS, "merged_sha256"])
    models = runs.groupby(KEYS, sort=False, dropna=False)
    measured = runs.select_dtypes("number").columns.difference([*KEYS, *_FIRST, "seed", "repeated_prompts"], sort=False)
    # A mean over some of the seeds would look like one over all.
    is_known = models[list(measured)].count().eq(models.size(), axis=0)
    table = models[_FIRST].first().join(models[list(measured)].mean().where(is_known)).join(worst)
    table.loc[models["device"].nunique() > 1, _OF_DEVICE] = np.nan
    table = table.assign(seeds=models.size(), own_seeds=models["seed"].agg(tuple))
    # The models of a cell have one shape, so each measures the same speed.
    for name in table.filter(regex="_speedup$"):
        over_models = models[name].apply(mean_interval)
        for place, column in enumerate((f"{name}_low", f"{name}_high")):
            table[column] = table[column].where(table["seeds"] == 1, over_models.str[place])
    table = in_order(table.reset_index())
    # A model that did not learn the task is compared with the original one.
    dense_modes = table["mode"].map(lambda mode: get_mode(mode).dense_mode)
    table["dense_mode"] = table["mode"].where(table["method"] == DENSE, dense_modes)
    table["trainings_tried"] = table.groupby(CELL, dropna=False)["training"].transform("nunique")
    table = _choose(table)
    table["scores"] = _scores(table, runs, frames.examples)
    table["spreads"] = None
    for _, place in table.groupby(PLACE, sort=False):
        pooled = [*place["scores"][comparable(place)]]
        columns = dict.fromkeys(column for scores in place["scores"] for column in scores)
        spreads = {name: pooled_spread(own[name] for own in pooled if name in own) for name in columns}
        for cell, scores in place["scores"].items():
            table.at[cell, "spreads"] = spreads
            for name, own in scores.items():
                table.loc[cell, [f"{name}_low", f"{name}_high"]] = interval(own, spreads[name])
    return table


def comparable(table: pd.DataFrame) -> pd.Series:
    """Return which cells are reported, have no fault, and have examples that do not repeat one another."""
    return table["chosen"] & table["status"].isin(SOUND) & (table["repeated_prompts"] <= REPEATED)


def gain(metric: str) -> int:
    """Return 1 if a higher value of a metric is better, else -1."""
    return 1 if get_metric(metric).higher_is_better else -1


def _scores(table: pd.DataFrame, runs: pd.DataFrame, examples: pd.DataFrame) -> list[dict[str, Scores]]:
    """Return for each cell what is behind its value, loss, divergence and probes, by their columns. `runs` has a run
    per model."""
    rows = runs[[*KEYS, "run_id"]].merge(table[KEYS].reset_index(names="cell"), on=KEYS)[["run_id", "cell"]]
    scores: list[dict[str, Scores]] = [{} for _ in table.index]
    examples = examples.merge(rows, on="run_id").sort_values("cell", kind="stable")
    for (cell, column), part in examples.groupby(["cell", "column"], sort=False):
        row, first = table.loc[cell], part.iloc[0]
        # Runs of a cell that saw other examples have a fault.
        if len(part) < row["seeds"] or part["scores"].map(len).nunique() > 1:
            continue
        values = np.array(part["scores"].tolist(), float)
        tokens = np.broadcast_to(first["tokens"], values.shape[1]).astype(float)
        seeds = () if row["mode"] == NO_FINETUNE else row["own_seeds"]
        is_loss = first["metric"] in (LOSS.name, DIVERGENCE)
        seen = (first["metric"], first["data"], tokens.tobytes())
        scores[cell][column] = Scores(values, seeds, tokens if is_loss else None, seen)
    return scores


def _choose(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with `chosen`, `decided_by` and `obstacle`. What decided is the value, the loss or the order."""
    table = table.assign(chosen=True, decided_by=None, obstacle=None)
    for _, group in table[table["trainings_tried"] > 1].groupby(CELL, dropna=False):
        seeds = set().union(*group["own_seeds"])
        missing = [min(seeds - set(own), default=None) for own in group["own_seeds"]]
        # Why a training cannot be chosen; NaN if it can.
        reasons = [[f"seed {seed} has no run of the study" for seed in missing], group["status"], NO_SELECTION]
        lacking = [pd.notna(missing), ~group["status"].isin(SOUND), group["selection_value"].isna()]
        obstacles = np.select(lacking, reasons, np.nan)
        table.loc[group.index, "obstacle"] = obstacles
        table.loc[group.index, "chosen"] = False
        able = group[pd.isna(obstacles)]
        if able.empty:
            continue
        value = -gain(able["metric"].iloc[0]) * able["selection_value"]
        ranks = {"value": value, "loss": able["selection_eval_loss"], "order": able["training_order"]}
        ranked = pd.DataFrame(ranks).round(DECIMALS).sort_values(list(ranks))
        table.at[ranked.index[0], "chosen"] = True
        if len(ranked) > 1:
            table.at[ranked.index[0], "decided_by"] = (ranked.iloc[0] != ranked.iloc[1]).idxmax()
    return table
