"""Make the columns of summary.csv that engines.json gives: how fast a run is in each engine, and how much memory it
takes."""

from statistics import fmean
from typing import Any

import pandas as pd

from sparseft.analysis.statistics import mean_columns, mean_interval
from sparseft.records.engine_record import EnginesRecord
from sparseft.study.export_settings import ENGINES


def speedup_intervals(models: Any) -> dict[str, pd.Series]:
    """Return the ends of the interval of each cell's mean speedups: that of its only model, or Student's over several.

    The models of a cell have one shape, so each measures the same speed."""
    ends = {}
    for name in {f"{engine}_speedup" for engine in ENGINES} & {*models.obj}:
        # NaN if a model was not measured.
        over_models = models[name].apply(mean_interval)
        for place, column in enumerate((f"{name}_low", f"{name}_high")):
            ends[column] = models[column].first().where(models.size() == 1, over_models.str[place])
    return ends


def engine_columns(record: EnginesRecord) -> dict[str, Any]:
    """Return what each engine that agrees measured of the run, and how much faster than dense it is."""
    columns: dict[str, Any] = {}
    for engine in {one.engine: None for one in record.results}:
        dense, run = (
            [one for one in record.results if (one.engine, one.model) == (engine, model)] for model in ("dense", "run")
        )
        if all(one.agrees for one in run):
            pairs = zip(run, dense, strict=True)
            ratios = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
            columns |= mean_columns(f"{engine}_speedup", ratios) | {
                f"{engine}_tokens_per_second": fmean(one.tokens_per_second for one in run),
                f"{engine}_first_token_seconds": fmean(one.first_token_seconds for one in run),
                f"{engine}_memory_bytes": max(one.peak_memory_bytes for one in run),
            }
    return columns
