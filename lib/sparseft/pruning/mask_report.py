"""Report what the masks of a method prune in each layer, and the scores behind it, as JSON; the former also as plots."""

from pathlib import Path

import numpy as np

from sparseft.records.manifests import MaskReport
from sparseft.records.record_file import write
from sparseft.selection.distribution import Distribution
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import MASK_PLOT, MASK_PLOTS, PassFiles

STARVED = 0.01  # The report names a layer that keeps less than this share of its weights.


def mask_report(
    meta: dict,
    percents: list[int],
    kept: dict[str, np.ndarray],
    shape: dict[str, tuple[int, int]],
    scores: dict[str, Distribution],
) -> dict:
    """Return report_{method}.json: a row per layer and sparsity (percent), and a row per layer for its scores.

    `kept` is int64 (sparsities,) by layer."""
    sizes = {layer: rows * cols for layer, (rows, cols) in shape.items()}
    sparsities = []
    for level, percent in enumerate(percents):
        counts = {layer: int(kept[layer][level]) for layer in shape}
        layers = [
            {"layer": layer, "weights": size, "kept": counts[layer], "reached": 1 - counts[layer] / size}
            for layer, size in sizes.items()
        ]
        starved = [layer for layer, size in sizes.items() if counts[layer] < STARVED * size]
        reached = 1 - sum(counts.values()) / (sum(sizes.values()) + meta.get("removed_weights", 0))
        sparsities.append(
            {"asked_percent": percent, "reached": reached, "layers_below_1_percent_kept": starved, "layers": layers}
        )
    rows = [{"layer": layer, **scores[layer]} for layer in shape]
    return {"format_version": 1, **meta, "sparsities": sparsities, "scores": rows}


def write_report(report: dict, folder: Path, files: PassFiles) -> None:
    """Write a report and the plots of a pass to `folder`."""
    if files.plot_name:
        _plot_report(report, folder, files.plot_name)
    write(folder / files.report.name, MaskReport(**report))


def _plot_report(report: dict, folder: Path, name: str) -> None:
    """Write the plots `name` to `folder`/plots: the layers' sparsities as histograms and as a heat map."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for kind, plot in zip(MASK_PLOTS, (_plot_histograms, _plot_layers), strict=True):
        figure = plot(report, pyplot)
        with atomic_file(folder / MASK_PLOT.format(plot=kind, name=name)) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        pyplot.close(figure)


def _plot_histograms(report: dict, pyplot):
    """Return a figure with a panel per sparsity: the number of layers by the sparsity that they reached."""
    panels = report["sparsities"]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(6.4, 1 + 1.1 * len(panels)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        axis.hist([100 * row["reached"] for row in panel["layers"]], bins=np.arange(-1, 102, 2), color="#0173b2")
        axis.axvline(panel["asked_percent"], color="#de8f05", linewidth=1)
        axis.set(ylabel="layers", title=f"asked {panel['asked_percent']} %, reached {100 * panel['reached']:.2f} %")
        axis.title.set_size("small")
    axes[-1, 0].set(xlabel="sparsity of a layer (%)", xlim=(-2, 102))
    figure.suptitle(f"{report['method']}: sparsity by layer")
    return figure


def _plot_layers(report: dict, pyplot):
    """Return a heat map of the sparsity reached, by layer and sparsity asked for."""
    panels = report["sparsities"]
    table = np.array([[100 * row["reached"] for row in panel["layers"]] for panel in panels]).T
    figure, axis = pyplot.subplots(figsize=(6.4, 8), layout="constrained")
    drawn = axis.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=100)
    axis.set(xticks=range(len(panels)), xticklabels=[panel["asked_percent"] for panel in panels])
    axis.set(xlabel="sparsity asked for (%)", ylabel="prunable layer, by decoder layer and name")
    figure.colorbar(drawn, label="sparsity reached (%)")
    figure.suptitle(f"{report['method']}: sparsity by layer")
    return figure
