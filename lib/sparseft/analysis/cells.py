"""Pool the runs of a cell: its values with their intervals and the choice of its training.

A cell has the runs that differ in the seed alone. Runs of the same model, such as untrained runs of two seeds, count
once.

A study can train each cell with several trainings (`grid.trainings`). Tables and pages report one of them: the one with
the best mean on the selection rows. Equal means are decided by the mean loss there, then by the order of the
configuration. The reported validation rows took no part in the choice, so a test on them needs no correction for the
number of trainings. A training cannot be chosen if a run of it is missing, has a fault, or has no result on the
selection rows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparseft.analysis.statistics import Scores, Spread, interval, mean_interval, pooled_spread
from sparseft.analysis.study import REPEATED, SOUND, Frames, in_order
from sparseft.data.settings import DIVERGENCE
from sparseft.export.settings import ENGINES
from sparseft.grid import DENSE, NO_FINETUNE
from sparseft.modes import get_mode
from sparseft.tasks import get_metric
from sparseft.tasks.metrics import LOSS

PLACE = ["study", "model", "task", "metric"]
CELL = [*PLACE, "method", "sparsity", "mode", "setting"]
KEYS = [*CELL, "training"]
# Means are compared after rounding to this many decimals, because sums in another order differ in the last bits.
DECIMALS = 12
_FIRST = ("original", "examples", "chance", "settings", "device", "selection_examples")
# What one device took. Its mean over several devices would be that of none.
_OF_DEVICE = ["device", "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes"]
_NOT_AVERAGED = {"seed", "standard_error", "repeated_prompts", "violations", "weights", "divergence_standard_error"}


@dataclass(frozen=True)
class Cells:
    """Hold the cells of a study, a row each.

    `scores` has what is behind a column of a cell, by its index: value, eval_loss, divergence or a probe. `spreads` has
    how much the seeds of a place vary in such a column."""

    frame: pd.DataFrame
    scores: Mapping[tuple[int, str], Scores]
    spreads: Mapping[tuple[tuple, str], Spread]

    def spread(self, cell: int, column: str) -> Spread:
        """Return how much seeds vary in a column, in the place of a cell."""
        return self.spreads[self.frame.at[cell, "place"], column]


def pool(frames: Frames) -> Cells:
    """Return the cells of a study, or of several."""
    runs = frames.runs
    # A cell has the status of its worst run.
    worst = {"status": "min", "repeated_prompts": "max"}
    table = runs.groupby(KEYS, sort=False, dropna=False).agg(worst)
    runs = runs.drop_duplicates([*KEYS, "merged_sha256"])
    models = runs.groupby(KEYS, sort=False, dropna=False)
    numbers = list(runs.select_dtypes("number").columns.difference([*KEYS, *_FIRST, *_NOT_AVERAGED], sort=False))
    # A mean over some of the seeds would look like one over all.
    is_known = models[numbers].count().eq(models.size(), axis=0)
    first = models[[name for name in _FIRST if name in runs]].first()
    table = table.join(models[numbers].mean().where(is_known)).join(first)
    if "device" in runs:
        table.loc[models["device"].nunique() > 1, _OF_DEVICE] = np.nan
    table = table.assign(seeds=models.size(), own_seeds=models["seed"].agg(tuple))
    # The models of a cell have one shape, so each measures the same speed.
    for name in table.columns.intersection([f"{engine}_speedup" for engine in ENGINES]):
        over_models = models[name].apply(mean_interval)
        for place, column in enumerate((f"{name}_low", f"{name}_high")):
            table[column] = table[column].where(table["seeds"] == 1, over_models.str[place])
    table = in_order(table.reset_index())
    # A model that did not learn the task is compared with the original one.
    dense_modes = table["mode"].map(lambda mode: get_mode(mode).dense_mode)
    table["dense_mode"] = table["mode"].where(table["method"] == DENSE, dense_modes)
    table["place"] = list(table[PLACE].itertuples(index=False, name=None))
    table["trainings_tried"] = table.groupby(CELL, dropna=False)["training"].transform("nunique")
    table = _choose(table)
    scores = _scores(table, runs, frames.examples)
    usable = comparable(table)
    pools: defaultdict[tuple, list[Scores]] = defaultdict(list)
    for (index, column), own in scores.items():
        pools[table.at[index, "place"], column] += [own] if usable[index] else []
    cells = Cells(table, scores, {key: pooled_spread(several) for key, several in pools.items()})
    for (index, column), own in scores.items():
        ends = interval(own, cells.spread(index, column))
        table.loc[index, f"{column}_low"], table.loc[index, f"{column}_high"] = ends
    return cells


def comparable(table: pd.DataFrame) -> pd.Series:
    """Return which cells are reported, have no fault, and have examples that do not repeat one another."""
    return table["chosen"] & table["status"].isin(SOUND) & (table["repeated_prompts"] <= REPEATED)


def probes_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of the probes that have an interval."""
    return [name for name in table if name.startswith("probe_") and f"{name}_low" in table]


def gain(metric: str) -> int:
    """Return 1 if a higher value of a metric is better, else -1."""
    return 1 if get_metric(metric).higher_is_better else -1


def _scores(table: pd.DataFrame, runs: pd.DataFrame, examples: pd.DataFrame) -> dict[tuple[int, str], Scores]:
    """Return what is behind the value, the loss, the divergence and the probes of each cell. `runs` has a run per
    model."""
    rows = runs[[*KEYS, "run_id"]].merge(table[KEYS].reset_index(names="cell"), on=KEYS)[["run_id", "cell"]]
    scores = {}
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
        scores[cell, column] = Scores(values, seeds, tokens if is_loss else None, seen)
    return scores


def _choose(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with `chosen`, `decided_by` and `obstacle`. What decided is the value, the loss or the order."""
    table = table.assign(chosen=True, decided_by=None, obstacle=None)
    for _, group in table[table["trainings_tried"] > 1].groupby(CELL, dropna=False):
        seeds = set().union(*group["own_seeds"])
        obstacles = [_obstacle(row, seeds - set(row.own_seeds)) for row in group.itertuples()]
        table.loc[group.index, "obstacle"] = obstacles
        table.loc[group.index, "chosen"] = False
        able = group[[obstacle is None for obstacle in obstacles]]
        if able.empty:
            continue
        value = -gain(able["metric"].iloc[0]) * able["selection_value"]
        ranks = {"value": value, "loss": able["selection_eval_loss"], "order": able["training_order"]}
        ranked = pd.DataFrame(ranks).round(DECIMALS).sort_values(list(ranks))
        table.at[ranked.index[0], "chosen"] = True
        if len(ranked) > 1:
            table.at[ranked.index[0], "decided_by"] = (ranked.iloc[0] != ranked.iloc[1]).idxmax()
    return table


def _obstacle(row: Any, missing_seeds: set[int]) -> str | None:
    """Return why a training cannot be chosen; None if it can."""
    if missing_seeds:
        return f"seed {min(missing_seeds)} has no run of the study"
    if row.status not in SOUND:
        return row.status
    return "a run has no result on the selection rows" if pd.isna(getattr(row, "selection_value", None)) else None
