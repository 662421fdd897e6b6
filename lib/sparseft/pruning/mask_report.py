"""Report what the masks of a method prune in each layer, and the scores behind it, as JSON and as plots."""

from pathlib import Path
from typing import Any

import numpy as np

from sparseft.checkpoints.checkpoint import to_float32
from sparseft.masks.mask_kernels import LOW
from sparseft.records.manifests import MaskReport
from sparseft.records.record_file import write
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import MASK_PLOT, MASK_PLOTS, PassFiles

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
STARVED = 0.01  # The report names a layer that keeps less than this share of its weights.
_OCTAVES = 24  # powers of two below the largest score; smaller scores count with the last


# The distribution of a layer's scores, or of its coupled units' scores if the method is structured: the fields of ScoreRow.
Distribution = dict[str, Any]
# That of random scores, and of a mask that ranks nothing.
NO_SCORES: Distribution = {"quantiles": {}, "octaves": {}, "zeros": 0}


def distribution_of_histogram(histogram: np.ndarray, dtype: str) -> Distribution:
    """Return the distribution from int (BINS,) counts by the high digit of scores in BF16, F16 or F32.

    It is exact for 16-bit scores, and low by up to 1 / 256 of their value for 32-bit ones."""
    used = np.flatnonzero(histogram != 0)  # On bool it takes a fifth of the time.
    bits = (used * LOW).astype(np.uint32) if dtype == "F32" else used.astype(np.uint16)
    return distribution_of_values(to_float32(bits, dtype), histogram[used])


def distribution_of_values(values: np.ndarray, counts: np.ndarray) -> Distribution:
    """Return the distribution of ascending non-negative values, each `counts` times.

    `octaves` is the number of scores in [2^k, 2^(k+1)) by k."""
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, np.ceil(np.array(QUANTILES) * ends[-1]))
    positive = values > 0
    exponents = np.frexp(values[positive])[1] - 1
    octaves, starts = np.unique(np.maximum(exponents, exponents[-1:] - _OCTAVES), return_index=True)
    sizes = np.add.reduceat(counts[positive], starts)
    return {
        "quantiles": dict(zip(QUANTILES, map(float, values[places]), strict=True)),
        "octaves": dict(zip(octaves.tolist(), sizes.tolist(), strict=True)),
        "zeros": int(counts[~positive].sum()),
    }


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
    """Write the plots `name` to `folder`/plots: the layers' sparsities as histograms and as a heat map, and their scores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for kind, plot in zip(MASK_PLOTS, (_plot_histograms, _plot_layers, _plot_scores), strict=True):
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
    figure, axis = _heat_map(pyplot, table, "sparsity reached (%)", cmap="viridis", vmin=0, vmax=100)
    axis.set(xticks=range(len(panels)), xticklabels=[panel["asked_percent"] for panel in panels])
    axis.set(xlabel="sparsity asked for (%)")
    figure.suptitle(f"{report['method']}: sparsity by layer")
    return figure


def _plot_scores(report: dict, pyplot):
    """Return a heat map of the share of a layer's scores, by layer and power of two."""
    octaves = [row["octaves"] for row in report["scores"]]
    columns = sorted({k for row in octaves for k in row}) or [0]
    table = np.array([[row.get(k, 0) / max(1, sum(row.values())) for k in columns] for row in octaves])
    edges = (columns[0] - 0.5, columns[-1] + 0.5, len(octaves) - 0.5, -0.5)
    figure, axis = _heat_map(pyplot, table, "share of the layer's scores", cmap="magma", extent=edges)
    axis.set(xlabel="score, power of two")
    figure.suptitle(f"{report['method']}: scores by layer")
    return figure


def _heat_map(pyplot, table: np.ndarray, label: str, **image: object) -> tuple:
    """Return a figure and its axis with a row per layer. `image` are options of imshow."""
    figure, axis = pyplot.subplots(figsize=(6.4, 8), layout="constrained")
    drawn = axis.imshow(table, aspect="auto", interpolation="nearest", **image)
    axis.set(ylabel="prunable layer, by decoder layer and name")
    figure.colorbar(drawn, label=label)
    return figure, axis
