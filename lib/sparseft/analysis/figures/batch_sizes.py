"""Draw the speed and the peak memory of training against the batch size.

A column of panels shows one method on one device. Its rows show samples per second, tokens per second and gigabytes.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.figures.style import MODE_STYLES, SPEED, TITLE, WIDTH, add_legend, draw_level, start_at_zero
from sparseft.study.grid import DENSE, OUT_OF_MEMORY

MEMORY = "peak_memory"
# The label of each row, by the beginning of its columns' names.
ROWS = {
    "samples_per_second": SPEED,
    "tokens_per_second": "training speed\n(tokens/s)",
    MEMORY: "peak memory\n(GB)",
}
# The ratio of the places of two neighbouring lines, so that equal values stay visible beside each other.
SHIFT = 1.03
CROSS = {"marker": "x", "s": 40, "linewidths": 1.8, "clip_on": False, "zorder": 5}


def throughput_figure(table: pd.DataFrame, title: str) -> Figure:
    """Return the figure of the measurements of one model and task. The speeds of two devices never share a panel."""
    pruned = table[table["method"] != DENSE]
    columns = list((pruned if len(pruned) else table).groupby(["method", "device"], sort=False).groups)
    colours = _colours(table["sparsity"])
    table = table.assign(**{f"{MEMORY}_{end}": table["peak_memory_bytes"] / 1e9 for end in ("mean", "low", "high")})
    figure = Figure(figsize=(WIDTH * max(1, len(columns) / 2), 8.6), layout="constrained")
    panels = figure.subplots(len(ROWS), len(columns), sharex=True, squeeze=False)
    for (method, device), column in zip(columns, panels.T, strict=True):
        part = table[table["method"].isin((method, DENSE)) & (table["device"] == device)]
        for name, axes in zip(ROWS, column, strict=True):
            _draw_panel(axes, part, name, colours)
        heading = method if table["device"].nunique() == 1 else f"{method}\n{fill(device, 24)}"
        column[0].set_title(heading, fontsize="small")
    _finish_axes(panels, sorted(table["batch_size"].unique()))
    lines = [fill(line, TITLE * max(1, len(columns) // 2)) for line in title.split("\n")]
    figure.suptitle("\n".join(lines), fontsize="small", fontweight="bold")
    add_legend(figure, panels.flat, order=_dense_first)
    figure.align_ylabels(panels[:, 0])
    return figure


def _colours(sparsities: pd.Series) -> dict[int, object]:
    """Return the colour of each sparsity, from dark to light. Dense is black."""
    pruned = sorted(set(sparsities) - {0})
    return {0: "black", **dict(zip(pruned, seaborn.color_palette("viridis", len(pruned)), strict=True))}


def _dense_first(label: str) -> tuple[bool, bool, str]:
    """Return the sort key by which a legend lists the dense lines, then the pruned ones, then the rest."""
    return not label.startswith(DENSE), "%" not in label, label


def _draw_panel(axes: Axes, table: pd.DataFrame, name: str, colours: Mapping[int, object]) -> None:
    """Draw a line per sparsity, mode and training, and the memory limits in the row of the memory."""
    cells = table.groupby(["method", "sparsity", "mode", "training"], sort=False)
    for number, ((method, sparsity, mode, training), line) in enumerate(cells):
        place = line["batch_size"] * SHIFT ** (number - (len(cells) - 1) / 2)
        style = MODE_STYLES[mode] | {"color": colours[sparsity]}
        label = f"{DENSE}, plain LoRA" if method == DENSE else f"{sparsity} %, {mode}"
        label += f", {training}" if training else ""
        _draw_line(axes, place, line, name, label, style)
        _mark_failures(axes, place, line, name, colours[sparsity])
    if name == MEMORY:
        limits = table[["memory_limit_bytes", "memory_limit_kind"]].dropna()
        for limit, kind in sorted(set(limits.itertuples(index=False, name=None))):
            draw_level(axes, limit / 1e9, f"memory limit, {kind}", ":", 1.4)


def _draw_line(
    axes: Axes, place: pd.Series, line: pd.DataFrame, name: str, label: str, style: Mapping[str, object]
) -> None:
    """Draw the means of one line with their intervals."""
    mean, low, high = (line[f"{name}_{end}"].astype(float) for end in ("mean", "low", "high"))
    axes.errorbar(
        place,
        mean,
        yerr=[mean - low, high - mean],
        label=label,
        linewidth=1.3,
        markersize=4,
        capsize=2,
        elinewidth=0.9,
        **style,
    )


def _mark_failures(axes: Axes, place: pd.Series, line: pd.DataFrame, name: str, colour: object) -> None:
    """Draw a cross at each batch size that did not fit: at the memory limit, or at the foot of a speed."""
    failed = line["status"] == OUT_OF_MEMORY
    height = line["memory_limit_bytes"].astype(float) / 1e9 if name == MEMORY else line["batch_size"] * 0
    label = "out of memory" if failed.any() else None
    axes.scatter(place[failed], height[failed], color=colour, label=label, **CROSS)


def _finish_axes(panels: np.ndarray, sizes: Sequence[int]) -> None:
    """Label the outer axes, and set the ranges. All panels share the x axis."""
    start_at_zero(panels.flat)
    for axes in panels.flat:
        axes.xaxis.grid(False)
    for axes, label in zip(panels[:, 0], ROWS.values(), strict=True):
        axes.set_ylabel(label, fontsize="small")
    panels[0, 0].set_xscale("log", base=2)
    panels[0, 0].set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    panels[0, 0].set_xticks(sizes, sizes, minor=False)
    for axes in panels[-1]:
        axes.set_xlabel("batch size\n(samples a forward pass)", fontsize="small")
