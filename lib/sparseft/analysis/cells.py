"""Pool the runs of a cell: its values with their intervals, the choice of its training, and the Pareto points.

A cell has the runs that differ in the seed alone. Runs of the same model, such as untrained runs of two seeds, count once.

A study can train each cell with several trainings (`grid.trainings`). Tables and pages report one of them: the one with the best
mean on the selection rows. Equal means are decided by the mean loss there, then by the order of the configuration. The reported
validation rows took no part in the choice, so a test on them needs no correction for the number of trainings. A training cannot
be chosen if a run of it is missing, has a fault, ended early, or has no result on the selection rows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparseft.analysis.statistics import Scores, Spread, interval, pooled_spread
from sparseft.analysis.study import OUTSIDE, REPEATED, SOUND, STATUSES, Frames, in_order
from sparseft.errors import InputError
from sparseft.study.grid import NO_FINETUNE, Run
from sparseft.tasks import get_metric
from sparseft.tasks.metrics import LOSS

PLACE = ["study", "model", "task", "metric"]
CELL = [*PLACE, "method", "sparsity", "mode", "setting"]
KEYS = [*CELL, "training"]
# Means are compared after rounding to this many decimals, because sums in another order differ in the last bits.
DECIMALS = 12
# What a cell has in common with its runs, whatever their training.
_OF_RUN = ["study", "model", "task", "method", "sparsity", "mode"]
_FIRST = ("examples", "chance", "settings", "device", "selection_examples")
_NOT_AVERAGED = {"seed", "standard_error", "repeated_prompts", "violations", "weights", "steps_done", "batch_size"}


@dataclass(frozen=True)
class CellScores:
    """Hold what the distinct models of a cell scored by example: `values` of a fraction, `losses` of a task.

    Two cells saw the same examples if `identity` is equal."""

    values: Scores | None
    losses: Scores | None
    identity: tuple

    @property
    def headline(self) -> Scores:
        """Return the scores that are reported: the outcomes, or the losses if the metric is the loss."""
        return self.values or self.losses


@dataclass(frozen=True)
class Cells:
    """Hold the cells of a study, a row each. `scores` has those of a cell by its index and a metric, or probe."""

    frame: pd.DataFrame
    scores: dict[tuple[int, str], CellScores]
    spreads: dict[tuple, Spread]

    @property
    def probes(self) -> list[str]:
        """Return the columns of the probes."""
        return list(dict.fromkeys(metric for _, metric in self.scores if metric.startswith("probe_")))

    def spread(self, row: pd.Series, metric: str, of: str) -> Spread:
        """Return the variation between seeds in the place of a cell. `of` is "values" or "losses"."""
        return self.spreads.get((row.study, row.model, row.task, metric, of), Spread())


def pool(frames: Frames) -> Cells:
    """Return the cells of a study, or of several."""
    runs = frames.runs[frames.runs["status"] != OUTSIDE]
    groups = runs.groupby(KEYS, sort=False, dropna=False)
    ranks = [*STATUSES.values(), "sound"]
    # A cell has the status of its worst run.
    worst = ("status", lambda statuses: min(statuses, key=ranks.index))
    table = groups.agg(status=worst, repeated_prompts=("repeated_prompts", "max"))
    models = runs.drop_duplicates([*KEYS, "merged_sha256"]).groupby(KEYS, sort=False, dropna=False)
    numbers = runs.select_dtypes("number").columns.difference([*KEYS, *_FIRST, *_NOT_AVERAGED], sort=False)
    # A mean over some of the seeds would look like one over all.
    is_known = models[list(numbers)].count().eq(models.size(), axis=0)
    table = table.join(models[list(numbers)].mean().where(is_known)).join(
        models[[name for name in _FIRST if name in runs]].first()
    )
    table["seeds"] = models.size()
    table["is_first_study"] = table.index.get_level_values("study") == runs["study"].iloc[0]
    table = in_order(table.reset_index())
    seeds = {key: tuple(part["seed"]) for key, part in models}
    run_ids = {key: list(part["run_id"]) for key, part in models}
    keys = [tuple(key) for key in table[KEYS].itertuples(index=False, name=None)]
    table["trainings_tried"] = table.groupby(CELL, dropna=False)["training"].transform("nunique")
    table = table.join(_choice(table, [seeds[key] for key in keys], _missing_seeds(frames.faults)))
    parts = dict(iter(frames.examples.groupby(["study", "run_id", "metric"], sort=False)))
    scores = {}
    for index, key in enumerate(keys):
        for metric in (key[3], *(name for name in table if name.startswith("probe_"))):
            found = [parts.get((key[0], run_id, metric)) for run_id in run_ids[key]]
            # Runs of a cell that saw other examples have a fault.
            if all(part is not None and len(part) == len(found[0]) for part in found):
                scores[index, metric] = _scores(found, seeds[key] if table.at[index, "mode"] != NO_FINETUNE else ())
    cells = Cells(table, scores, _spreads(table, scores))
    return Cells(_with_intervals(cells), scores, cells.spreads)


def comparable(table: pd.DataFrame) -> pd.Series:
    """Return which cells are reported, have no fault, and have examples that do not repeat one another."""
    return table["chosen"] & table["status"].isin(SOUND) & (table["repeated_prompts"] <= REPEATED)


def _scores(parts: list[pd.DataFrame], seeds: tuple[int, ...]) -> CellScores:
    """Return what the models of a cell scored, from the examples of each."""
    first = parts[0]
    rows = {name: np.array([part[name] for part in parts], float) for name in ("right", "loss")}
    tokens = first["tokens"].to_numpy(float)
    identity = (first["metric"].iloc[0], first["data"].iloc[0], len(first), tokens.tobytes())
    return CellScores(
        values=None if np.isnan(rows["right"]).any() else Scores(rows["right"], seeds),
        losses=None if np.isnan(rows["loss"]).any() else Scores(rows["loss"], seeds, tokens),
        identity=identity,
    )


def _spreads(table: pd.DataFrame, scores: Mapping[tuple[int, str], CellScores]) -> dict[tuple, Spread]:
    """Return the variation between seeds, pooled over the comparable cells of a study, model, task and metric."""
    pools: dict[tuple, list[Scores]] = {}
    usable = comparable(table)
    for (index, metric), cell in scores.items():
        if usable[index]:
            for of in ("values", "losses"):
                if own := getattr(cell, of):
                    row = table.loc[index]
                    pools.setdefault((row.study, row.model, row.task, metric, of), []).append(own)
    return {key: pooled_spread(pool) for key, pool in pools.items()}


def _with_intervals(cells: Cells) -> pd.DataFrame:
    """Return the cells with the ends of the intervals of values, losses and probes, and with the Pareto points."""
    table = cells.frame
    ends: dict[str, dict[int, float]] = {}
    for (index, metric), cell in cells.scores.items():
        columns = {metric if metric.startswith("probe_") else "value": cell.headline}
        if cell.losses:
            columns["eval_loss"] = cell.losses
        for column, scores in columns.items():
            of = "values" if scores is cell.values else "losses"
            low, high = interval(scores, cells.spread(table.loc[index], metric, of))
            ends.setdefault(f"{column}_low", {})[index] = low
            ends.setdefault(f"{column}_high", {})[index] = high
    table = table.assign(**{name: pd.Series(values, dtype=float) for name, values in ends.items()}, pareto=False)
    for (*_, metric, _), place in table[comparable(table)].groupby([*PLACE, "setting"]):
        gains = np.column_stack([gain(metric) * place["value"], place["reached_sparsity"]])
        # A cell is a point if no other one is as good in both respects and better in one.
        as_good = (gains[None] >= gains[:, None]).all(axis=2)
        better = (gains[None] > gains[:, None]).any(axis=2)
        table.loc[place.index, "pareto"] = ~(as_good & better).any(axis=1)
    return table


def gain(metric: str) -> int:
    """Return 1 if a higher value of a metric is better, else -1."""
    return 1 if get_metric(metric).higher_is_better else -1


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction of examples, which every metric but the loss is."""
    return metric != LOSS.name


def _missing_seeds(faults: pd.DataFrame) -> defaultdict[tuple, set[int]]:
    """Return the seeds of the wanted runs that are in no table, or were made with other settings, by their _OF_RUN."""
    lacking = faults[faults["kind"].isin(["missing", "outside"]) & faults["is_wanted"].astype(bool)]
    seeds = defaultdict(set)
    for study, run_id in lacking[["study", "run_id"]].itertuples(index=False):
        # The name of a folder may be no run's.
        with suppress(InputError):
            run = Run.parse(run_id)
            seeds[study, *(getattr(run, name) for name in _OF_RUN[1:])].add(run.seed)
    return seeds


def _choice(
    table: pd.DataFrame, seeds: Sequence[tuple[int, ...]], missing: defaultdict[tuple, set[int]]
) -> pd.DataFrame:
    """Return the columns `chosen`, `decided_by` and `obstacle` of the cells. `seeds` has the seeds of each cell."""
    rows = {index: {"chosen": True, "decided_by": None, "obstacle": None} for index in table.index}
    for _, group in table[table["mode"] != NO_FINETUNE].groupby(CELL, dropna=False):
        if len(group) == 1:
            continue
        wanted = {seed for index in group.index for seed in seeds[index]}
        wanted |= missing[tuple(group.iloc[0][_OF_RUN])]
        for index, row in group.iterrows():
            rows[index] |= {"chosen": False, "obstacle": _obstacle(row, wanted - set(seeds[index]))}
        able = group[[not rows[index]["obstacle"] for index in group.index]]
        if len(able):
            best, decided_by = _best(able)
            rows[best] |= {"chosen": True, "decided_by": decided_by}
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object).astype({"chosen": bool})


def _obstacle(row: pd.Series, missing_seeds: set[int]) -> str | None:
    """Return why a training cannot be chosen; None if it can."""
    if missing_seeds:
        return f"seed {min(missing_seeds)} has no run of the study"
    if row["status"] not in SOUND:
        return row["status"]
    return "a run has no result on the selection rows" if pd.isna(row.get("selection_value")) else None


def _best(able: pd.DataFrame) -> tuple[int, str | None]:
    """Return the index of the best of the trainings that can be chosen, and what decided: value, loss or order."""
    ranked = pd.DataFrame(
        {
            "value": (gain(able["metric"].iloc[0]) * able["selection_value"]).round(DECIMALS),
            "loss": -able["selection_eval_loss"].round(DECIMALS),
            "order": -able["training_order"],
        }
    ).sort_values(["value", "loss", "order"], ascending=False, kind="stable")
    first, *others = ranked.itertuples()
    if not others:
        return first.Index, None
    return first.Index, next((name for name in ranked if getattr(first, name) != getattr(others[0], name)), "order")
