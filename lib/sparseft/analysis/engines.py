"""Make the columns of summary.csv that engines.json gives: how fast a run is in each engine, and how much memory it
takes."""

from statistics import fmean
from typing import Any

import pandas as pd

from sparseft.analysis.statistics import mean_interval
from sparseft.records.engine_record import EngineResult, EnginesRecord
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
            columns |= {f"{engine}{end}": value for end, value in _measured(run, dense).items()}
    return columns


def _measured(run: list[EngineResult], dense: list[EngineResult]) -> dict[str, float]:
    """Return what was measured of a run beside the dense model, by the end of the column."""
    ratios = [one.tokens_per_second / other.tokens_per_second for one, other in zip(run, dense, strict=True)]
    low, high = mean_interval(ratios)
    return {
        "_speedup": fmean(ratios),
        "_speedup_low": low,
        "_speedup_high": high,
        "_tokens_per_second": fmean(one.tokens_per_second for one in run),
        "_first_token_seconds": fmean(one.first_token_seconds for one in run),
        "_memory_bytes": max(one.peak_memory_bytes for one in run),
    }
