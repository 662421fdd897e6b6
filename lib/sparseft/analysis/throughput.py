"""Make the table of batch sizes from the measurements of `snakemake throughput`. They are not runs.

Each batch size is measured several times. Over these repeats the table has the mean with Student's 95 % confidence
interval, blank for one repeat, the largest peak memory, and the smallest share of its threads' time that a CPU gave the
training. Far below 1, other work disturbed it.

On a CPU the peak is resident memory, and the limit one of private memory, so each of the two has its `kind` beside it.
"""

from collections.abc import Iterable

import pandas as pd

from sparseft.analysis.statistics import mean_columns
from sparseft.axes.grid import Cell
from sparseft.evaluation.throughput_record import BatchRecord, ThroughputRecord

_CELL = ["model", "task", "method", "sparsity", "mode", "training"]
_MEASURED = [f"{name}_per_second{end}" for name in ("samples", "tokens") for end in ("", "_low", "_high")]
COLUMNS = [*_CELL, *"device threads processes sequence_length warmup_steps steps dtype".split()]
COLUMNS += ["batch_size", "status", "repeats", *_MEASURED, "tokens_per_sample", "tokens_per_sample_padded"]
COLUMNS += "peak_memory_bytes cpu_share peak_memory_kind memory_limit_bytes memory_limit_kind reason".split()


def throughput_table(measurements: Iterable[ThroughputRecord]) -> pd.DataFrame:
    """Return a row per cell and batch size."""
    rows = [vars(one) | vars(Cell.parse(one.cell)) | _of_batch(batch) for one in measurements for batch in one.batches]
    table = pd.DataFrame(rows).sort_values([*_CELL, "device", "batch_size"], kind="stable", ignore_index=True)
    whole = ["sequence_length", "peak_memory_bytes", "memory_limit_bytes"]
    return table.reindex(columns=COLUMNS).astype(dict.fromkeys(whole, "Int64"))


def _of_batch(batch: BatchRecord) -> dict[str, object]:
    """Return what the repeats of a batch size give; None for what nothing was measured of."""
    repeats = pd.DataFrame([repeat.model_dump() for repeat in batch.repeats])
    row = {"batch_size": batch.batch_size, "status": batch.status, "reason": batch.reason, "repeats": len(repeats)}
    if repeats.empty:
        return row
    for name in ("samples", "tokens"):
        row |= mean_columns(f"{name}_per_second", repeats[name] / repeats["seconds"])
    total = repeats[["samples", "tokens", "padded_tokens"]].sum()
    return row | {
        "tokens_per_sample": total["tokens"] / total["samples"],
        "tokens_per_sample_padded": total["padded_tokens"] / total["samples"],
        "peak_memory_bytes": repeats["peak_memory_bytes"].max(),
        "cpu_share": repeats["cpu_share"].astype(float).min(),
        "dtype": repeats["dtype"].iloc[0],
    }
