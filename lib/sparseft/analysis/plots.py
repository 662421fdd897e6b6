"""The figures of the study, each as PNG and SVG.

    {task}_{metric}_vs_sparsity      what pruning costs and fine-tuning wins back, with standard errors and chance
    {task}_{metric}_heatmap_{model}  method x sparsity, one panel a mode
    {task}_eval_loss_vs_sparsity     loss on the validation set
    {task}_throughput_vs_sparsity    training speed, one row a device

A line figure has a column a method and a row a model; colour and marker both tell the mode. The same input gives the
same bytes.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")  # before seaborn asks for a display

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.records import NO_FINETUNE
from sparseft.files import atomic_folder
from sparseft.grid import MODES

METRICS = {"acc": "accuracy", "acc_norm": "length-normalised accuracy", "exact_match": "exact match"}
SPARSITY = "sparsity asked for (%)"
LOSS = "evaluation loss\n(nats per answer token)"
SPEED = "training speed\n(samples/s)"

_COLOURS = seaborn.color_palette("colorblind")
_MODES = {
    NO_FINETUNE: {"color": _COLOURS[7], "marker": "o"},
    "sparse_to_dense": {"color": _COLOURS[0], "marker": "s"},
    "sparse_to_sparse": {"color": _COLOURS[3], "marker": "^"},
}
_STYLE = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("notebook", font_scale=0.95),
    "grid.color": "0.88",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "sparseft",  # else the ids in an SVG differ from run to run
    "savefig.dpi": 150,
}


def write_plots(points: pd.DataFrame, folder: Path) -> list[str]:
    """Draw every figure from the points of the curves into `folder`, replacing it; returns the PNGs' names."""
    names = []
    with matplotlib.rc_context(_STYLE), atomic_folder(folder) as temporary:
        for name, figure in _figures(points):
            figure.savefig(temporary / f"{name}.png", metadata={"Software": None})
            figure.set_layout_engine("none")  # laid out by the first drawing; once is enough
            figure.savefig(temporary / f"{name}.svg", metadata={"Date": None, "Creator": None})
            names.append(f"{name}.png")
    return names


def _figures(points: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    points = points.assign(row=points["model"])
    for (task, metric), part in points.groupby(["task", "metric"], sort=False):
        label = METRICS.get(metric, metric)
        figure = _line_figure(part, "value", label, error="standard_error", title=f"{task}: {label} ± standard error")
        yield f"{task}_{metric}_vs_sparsity", figure
        for model, of_model in part.groupby("model", sort=False):
            title = f"{task}: {label} ({model})"
            yield f"{task}_{metric}_heatmap_{model}", _heat_map(of_model, title=title, label=label)
    for task, part in points.groupby("task", sort=False):
        bars = " ± standard deviation over seeds" if (part["n"] > 1).any() else ""
        title = f"{task}: loss of the merged model{bars}"
        yield f"{task}_eval_loss_vs_sparsity", _line_figure(part, "eval_loss", LOSS, error="eval_loss_sd", title=title)
        trained = part[part["samples_per_second"].notna()]
        if len(trained):
            # A row a device: the speeds of two devices never share an axis.
            trained = trained.assign(row=trained["model"] + " on " + trained["device"])
            title = f"{task}: training speed{bars}"
            figure = _line_figure(trained, "samples_per_second", SPEED, error="samples_per_second_sd", title=title)
            yield f"{task}_throughput_vs_sparsity", figure


def _line_figure(points: pd.DataFrame, column: str, label: str, *, error: str, title: str) -> Figure:
    rows, methods = list(points["row"].unique()), list(points["method"].unique())
    figure = Figure(figsize=(max(7.5, 3.4 * len(methods)), 1.1 + 2.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(methods), sharex=True, sharey="row", squeeze=False)
    for (row, method), axes in zip(product(rows, methods), panels.flat, strict=True):
        part = points[(points["row"] == row) & (points["method"] == method)]
        _draw_lines(axes, part, column, error)
        if column == "value" and len(part):
            _draw_levels(axes, part)
        axes.set_title(method if len(rows) == 1 else f"{method}\n{fill(row, 40)}", fontsize="medium")
    _finish_axes(panels, points["sparsity"], from_zero=column == "samples_per_second")
    figure.suptitle(title if len(rows) > 1 else f"{title} ({rows[0]})", fontsize="medium", fontweight="bold")
    for axes in panels[:, 0]:
        axes.set_ylabel(label, fontsize="medium")
    handles = {
        text: handle for axes in panels.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = sorted(handles, key=lambda text: (text not in MODES, text))
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_lines(axes: Axes, points: pd.DataFrame, column: str, error: str) -> None:
    for mode, line in points.groupby("mode", sort=False):
        look = {"linewidth": 1.8, "markersize": 5, "capsize": 2.5, "elinewidth": 1, **_MODES[mode]}
        # 0.7 points apart, so that equal values and their bars stay visible beside each other.
        place = line["sparsity"] + 0.7 * (MODES.index(mode) - 1)
        axes.errorbar(place, line[column], yerr=line[error].astype(float), label=mode, **look)


def _draw_levels(axes: Axes, points: pd.DataFrame) -> None:
    """What the curves start from and what guessing gives."""
    dense = points[points["mode"] != NO_FINETUNE]["dense_value"].dropna()
    if len(dense):
        axes.axhline(dense.iloc[0], color="0.25", linestyle="--", linewidth=1, label="dense, fine-tuned", zorder=1)
    axes.axhline(points["chance"].iloc[0], color="0.25", linestyle=":", linewidth=1.4, label="chance", zorder=1)


def _finish_axes(panels: np.ndarray, sparsities: pd.Series, *, from_zero: bool) -> None:
    ticks = []
    for sparsity in sorted(sparsities.unique()):
        if not ticks or sparsity - ticks[-1] >= 7:  # percent; closer, the numbers would touch
            ticks.append(sparsity)
    panels[0, 0].set_xticks(ticks)  # the x axis is shared
    panels[0, 0].set_xlim(ticks[0] - 4, sparsities.max() + 4)
    for axes in panels.flat:
        axes.xaxis.grid(False)
    for axes in panels[-1]:
        axes.set_xlabel(SPARSITY, fontsize="medium")
    if from_zero:  # a ratio of speeds is read off the axis
        for axes in panels[:, 0]:
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _heat_map(points: pd.DataFrame, *, title: str, label: str) -> Figure:
    modes = list(points["mode"].unique())
    methods, columns = list(points["method"].unique()), sorted(points["sparsity"].unique())
    size = (max(6, 3 + 0.62 * len(columns)), 1.2 + (0.45 + 0.42 * len(methods)) * len(modes))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(modes), 1, sharex=True, squeeze=False)[:, 0]
    scale = {"vmin": min(points["chance"].min(), points["value"].min()), "vmax": points["value"].max()}
    for mode, axes in zip(modes, panels, strict=True):
        part = points[points["mode"] == mode]
        table = part.pivot(index="method", columns="sparsity", values="value").reindex(index=methods, columns=columns)
        seaborn.heatmap(table, ax=axes, annot=True, fmt=".2f", cmap="cividis", cbar=False, linewidths=1, **scale)
        axes.set_title(mode, fontsize="medium")
        axes.set(xlabel="", ylabel="", facecolor="0.9")  # grey: no such run
        axes.tick_params(axis="y", rotation=0)
    panels[-1].set_xlabel(SPARSITY, fontsize="medium")
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, fraction=0.05, aspect=25)
    return figure
