"""Compute the columns of the probes: their mean per run, and means and intervals per cell.

The columns of a probe begin with its name: probe_NAME, probe_NAME_stderr and so on. A table without probes has none of them.
"""

import numpy as np
import pandas as pd

from sparseft.analysis.statistics import combined_interval, proportion_interval, t_interval

MEAN = "probes_mean"
_ERROR = "_stderr"


def probe_names(table: pd.DataFrame) -> list[str]:
    """Return the names of the probes in a table, in the order of their columns."""
    columns = [name for name in table if f"{name}{_ERROR}" in table and name.startswith("probe_")]
    return [name.removeprefix("probe_") for name in columns]


def with_probes_mean(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the mean over the probes and its standard error; the same table without a probe.

    The mean is over the probes that the study's runs of the same task have. It is blank for a run that lacks one of them. The
    standard error takes the examples of two probes as independent."""
    if not probe_names(runs):
        return runs
    of_tasks = [_probes_mean(members) for _, members in runs.groupby("task", sort=False)]
    return runs.join(pd.concat(of_tasks))


def _probes_mean(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the probes and its standard error, for the runs of one task."""
    study = runs[runs["in_study"]] if runs["in_study"].any() else runs
    columns = [f"probe_{name}" for name in probe_names(runs) if study[f"probe_{name}"].notna().any()]
    variances = runs[[f"{name}{_ERROR}" for name in columns]] ** 2
    # Without a probe, the mean of no column is NaN.
    return pd.DataFrame(
        {
            MEAN: runs[columns].mean(axis=1, skipna=False),
            f"{MEAN}{_ERROR}": np.sqrt(variances.sum(axis=1, skipna=False)) / (len(columns) or np.nan),
        },
        index=runs.index,
    )


def probes_over_models(models: pd.api.typing.DataFrameGroupBy, runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the columns of the probes per cell: mean, standard error and interval of each, and of the mean over them.

    `models` groups the rows of `runs` by cell, one row per model. A cell without a model that has the probe is blank."""
    columns: dict[str, pd.Series] = {}
    examples = {f"probe_{name}": models[f"probe_{name}_examples"].max() for name in probe_names(runs)}
    for name, count in examples.items():
        columns |= _with_interval(models, name, _wilson(models[name].mean(), count))
    if MEAN in runs:
        smallest = pd.concat(list(examples.values()), axis=1).min(axis=1)
        over_examples = t_interval(models[MEAN].mean(), models[f"{MEAN}{_ERROR}"].mean(), smallest)
        columns |= _with_interval(models, MEAN, over_examples)
    return columns


def _with_interval(
    models: pd.api.typing.DataFrameGroupBy, name: str, over_examples: tuple[np.ndarray, np.ndarray]
) -> dict[str, pd.Series]:
    """Return the columns of one probe, or of the mean over all. The interval combines the seeds and the examples."""
    mean = models[name].mean()
    over_seeds = t_interval(mean, models[name].sem(), models[name].count())
    low, high, _ = combined_interval(mean, over_seeds, over_examples)
    return {
        name: mean,
        f"{name}{_ERROR}": models[f"{name}{_ERROR}"].mean(),
        f"{name}_low": np.clip(low, 0, 1),
        f"{name}_high": np.clip(high, 0, 1),
    }


def _wilson(mean: pd.Series, examples: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's intervals; NaN for a cell without a value."""
    measured = mean.notna().to_numpy()
    ends = np.full((2, len(mean)), np.nan)
    ends[:, measured] = proportion_interval(mean[measured], examples[measured])
    return ends[0], ends[1]
