"""Report what the masks of a method prune in each layer, as JSON."""

from pathlib import Path
from typing import Any

import numpy as np

from sparseft.records.manifests import MaskReport
from sparseft.records.record_file import write


def write_report(
    path: Path,
    meta: dict,
    percents: list[int],
    kept: dict[str, np.ndarray],
    shape: dict[str, tuple[int, int]],
    **entries: Any,
) -> dict:
    """Write report_{method}.json and return it: the metadata, and a row per layer for each sparsity in percent.

    `kept` is int64 (sparsities,) by layer. `entries` are added to the report."""
    sizes = {layer: rows * cols for layer, (rows, cols) in shape.items()}
    sparsities = []
    for level, percent in enumerate(percents):
        counts = {layer: int(kept[layer][level]) for layer in shape}
        layers = [
            {"layer": layer, "weights": size, "kept": counts[layer], "reached": 1 - counts[layer] / size}
            for layer, size in sizes.items()
        ]
        reached = 1 - sum(counts.values()) / (sum(sizes.values()) + meta.get("removed_weights", 0))
        sparsities.append({"asked_percent": percent, "reached": reached, "layers": layers})
    report = {"format_version": 1, **meta, "sparsities": sparsities, **entries}
    write(path, MaskReport(**report))
    return report
