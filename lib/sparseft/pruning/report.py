"""What the masks of a method prune, layer by layer, asked and reached, and the scores behind it; JSON and plots."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import to_float32
from sparseft.masks.mask_kernels import LOW
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import MASK_PLOT, MASK_PLOTS

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
STARVED = 0.01  # a layer that keeps less than this share of its weights is named
_OCTAVES = 24  # below the largest score; what is lower is counted with the lowest


@dataclass(frozen=True)
class Scores:
    """The distribution of a layer's scores (structured: of its coupled units'): quantiles, `octaves`, how many lie in
    [2^k, 2^(k+1)) by k, and how many are zero.

    Nothing where scores are no numbers (method random). From 16-bit scores exact, from 32-bit ones low by up to 1 / 256
    of their value."""

    quantiles: dict[float, float]
    octaves: dict[int, int]
    zeros: int

    @classmethod
    def of_histogram(cls, histogram: np.ndarray, dtype: str | None) -> "Scores":
        """`histogram`: int (BINS,) by the high digit of scores in BF16, F16 or F32."""
        if not dtype:
            return cls({}, {}, 0)
        used = np.flatnonzero(histogram != 0)  # of bool: a fifth of the time
        bits = (used * LOW).astype(np.uint32) if dtype == "F32" else used.astype(np.uint16)
        return cls._of(to_float32(bits, dtype), histogram[used])

    @classmethod
    def of_values(cls, values: np.ndarray) -> "Scores":
        """`values`: non-negative fp64 (n,)."""
        return cls._of(*np.unique(values, return_counts=True))

    @classmethod
    def _of(cls, values: np.ndarray, counts: np.ndarray) -> "Scores":
        """`values` ascend, each `counts` times."""
        ends = np.cumsum(counts)
        places = np.searchsorted(ends, np.ceil(np.array(QUANTILES) * ends[-1]))
        exponents = np.frexp(values[values > 0])[1] - 1
        exponents = np.maximum(exponents, exponents[-1] - _OCTAVES) if exponents.size else exponents
        found, starts = np.unique(exponents, return_index=True)
        sums = np.add.reduceat(counts[values > 0], starts) if starts.size else starts
        octaves = dict(zip(found.tolist(), sums.tolist(), strict=True))
        quantiles = dict(zip(QUANTILES, map(float, values[places]), strict=True))
        return cls(quantiles, octaves, int(counts[values == 0].sum()))


def mask_report(
    meta: dict, percents: list[int], kept: dict[str, np.ndarray], shape: dict[str, tuple[int, int]],
    scores: dict[str, Scores],
) -> dict:  # fmt: skip
    """report_{method}.json: a row a layer and sparsity (percent), and a row a layer for its scores.

    `kept`: int64 (sparsities,) by layer."""
    sizes = {layer: rows * cols for layer, (rows, cols) in shape.items()}
    sparsities = [
        _sparsity(percent, {layer: int(kept[layer][level]) for layer in shape}, sizes)
        for level, percent in enumerate(percents)
    ]
    rows = [{"layer": layer, **vars(scores[layer])} for layer in shape]
    return {"format_version": 1, **meta, "sparsities": sparsities, "scores": rows}


def plot_report(report: dict, folder: Path, name: str) -> None:
    """Write to `folder`/plots, under `name`: the layers' sparsities as histograms and as a heat map, and their scores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for kind, plot in zip(MASK_PLOTS, (_plot_histograms, _plot_layers, _plot_scores), strict=True):
        figure = plot(report, pyplot)
        with atomic_file(folder / MASK_PLOT.format(plot=kind, name=name)) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        pyplot.close(figure)


def _sparsity(percent: int, kept: dict[str, int], sizes: dict[str, int]) -> dict:
    layers = [
        {"layer": layer, "weights": sizes[layer], "kept": kept[layer], "reached": 1 - kept[layer] / sizes[layer]}
        for layer in sizes
    ]
    starved = [row["layer"] for row in layers if row["kept"] < STARVED * row["weights"]]
    reached = 1 - sum(kept.values()) / sum(sizes.values())
    return {"asked_percent": percent, "reached": reached, "layers_below_1_percent_kept": starved, "layers": layers}


def _plot_histograms(report: dict, pyplot):
    """A panel a sparsity asked for: how many layers reached what."""
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
    """Layer x sparsity asked: what was reached."""
    panels = report["sparsities"]
    table = np.array([[100 * row["reached"] for row in panel["layers"]] for panel in panels]).T
    figure, axis = pyplot.subplots(figsize=(6.4, 8), layout="constrained")
    image = axis.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=100)
    axis.set(xticks=range(len(panels)), xticklabels=[panel["asked_percent"] for panel in panels])
    axis.set(xlabel="sparsity asked for (%)", ylabel="prunable layer, by decoder layer and name")
    figure.colorbar(image, label="sparsity reached (%)")
    figure.suptitle(f"{report['method']}: sparsity by layer")
    return figure


def _plot_scores(report: dict, pyplot):
    """Layer x power of two: the share of the layer's scores there."""
    octaves = [row["octaves"] for row in report["scores"]]
    columns = sorted({k for row in octaves for k in row}) or [0]
    table = np.array([[row.get(k, 0) / max(1, sum(row.values())) for k in columns] for row in octaves])
    figure, axis = pyplot.subplots(figsize=(6.4, 8), layout="constrained")
    edges = (columns[0] - 0.5, columns[-1] + 0.5, len(octaves) - 0.5, -0.5)
    image = axis.imshow(table, aspect="auto", interpolation="nearest", cmap="magma", extent=edges)
    axis.set(xlabel="score, power of two", ylabel="prunable layer, by decoder layer and name")
    figure.colorbar(image, label="share of the layer's scores")
    figure.suptitle(f"{report['method']}: scores by layer")
    return figure
