"""Report what the masks of a method prune in each layer, as JSON and as a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparseft.axes.grid import PassFiles
from sparseft.pruning.masks.mask_file import MaskWriter
from sparseft.pruning.masks.mask_record import MaskReport
from sparseft.storage.atomic import atomic_file
from sparseft.storage.record_file import write


def write_report(
    folder: Path, files: PassFiles, meta: dict, writer: MaskWriter, rows: Mapping[str, dict] = {}, **entries: Any
) -> dict:
    """Write the report and the plot of a pass to `folder`, and return the report: the metadata, and a row per layer and
    sparsity.

    `writer` has all masks, and writes them. `rows` are added to the rows of the layers, and `entries` to the report."""
    writer.finish()
    sizes = {layer: rows * cols for layer, (rows, cols) in writer.shape.items()}
    sparsities = []
    for level, meta_of_mask in enumerate(writer.metas):
        layers = []
        for layer, size in sizes.items():
            kept = int(writer.kept[layer][level])
            row = {"layer": layer, "weights": size, "kept": kept, "reached": 1 - kept / size}
            layers.append(row | rows.get(layer, {}))
        percent = round(100 * meta_of_mask["sparsity"])
        sparsities.append({"asked_percent": percent, "reached": writer.reached(level), "layers": layers})
    report = {"format_version": 1, **meta, "sparsities": sparsities, **entries}
    write(folder / files.report.name, MaskReport(**report))
    if files.plot:
        _plot(report, folder / files.plot.relative_to(files.report.parent))
    return report


def _plot(report: dict, path: Path) -> None:
    """Draw a panel per sparsity: the number of layers by the sparsity that they reached."""
    from matplotlib.figure import Figure

    panels = report["sparsities"]
    figure = Figure(figsize=(6.4, 1 + 1.1 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        axis.hist([100 * row["reached"] for row in panel["layers"]], bins=np.arange(-1, 102, 2))
        axis.axvline(panel["asked_percent"], color="black", linewidth=1)
        axis.set(ylabel="layers", title=f"asked {panel['asked_percent']} %, reached {100 * panel['reached']:.2f} %")
    axes[-1, 0].set(xlabel="sparsity of a layer (%)", xlim=(-2, 102))
    figure.suptitle(report["method"])
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
