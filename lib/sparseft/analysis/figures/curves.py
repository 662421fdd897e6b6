"""Draw a quantity over the sparsity: a panel per method and row, and a line per mode."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.figures.style import (
    MODE_STYLES,
    SPEED,
    add_legend,
    add_title,
    draw_level,
    panel_grid,
    start_at_zero,
)
from sparseft.analysis.headlines import is_loss, metric_name
from sparseft.study.grid import MODES, TASK_MODES

# Percentage points between the lines of two modes, so that equal values stay visible beside each other.
SHIFT = 0.7
# Percentage points. The numbers of closer ticks would touch.
TICK_DISTANCE = 20
# Percentage points of the x axis beyond the first tick and the last point.
MARGIN = 4
BASELINE_MARKERS = "Dv*PX"


def _no_levels(axes: Axes, points: pd.DataFrame) -> None:
    """Draw no horizontal line."""


def _levels_of_value(axes: Axes, points: pd.DataFrame) -> None:
    """Draw the value of the dense model, of guessing, and of one answer to all questions."""
    if points.empty:
        return
    dense = points[points["mode"].isin(TASK_MODES)]["dense_value"].dropna()
    if len(dense):
        draw_level(axes, dense.iloc[0], "dense, fine-tuned", "--")
    chance, floor = points[["chance", "majority_floor"]].iloc[0]
    # A loss has no chance. The comparison is false if the task has no such floor.
    if pd.notna(chance):
        draw_level(axes, chance, "chance", ":", 1.4)
    if floor > chance:
        draw_level(axes, floor, "one answer to all", "-.")


def _level_of_gap(axes: Axes, points: pd.DataFrame) -> None:
    """Draw the line on which the merge changes nothing."""
    draw_level(axes, 0, "no gap", ":", 1.4)


@dataclass(frozen=True)
class Quantity:
    """Describe what a line figure shows: its column of the points, that of its error bars, and its axis."""

    column: str
    error: str
    label: str
    draw_levels: Callable[[Axes, pd.DataFrame], None] = _no_levels
    from_zero: bool = False
    # A figure is left out if every value is closer to 0.
    smallest: float = 0.0


LOSS = Quantity("eval_loss", "eval_loss_sd", "evaluation loss\n(nats per answer token)")
# The tables show three digits, so no smaller gap than 5e-4 nats per answer token.
GAP = Quantity(
    "train_merge_gap", "train_merge_gap_sd", "train-merge gap\n(nats per answer token)", _level_of_gap, smallest=5e-4
)
TRAINING_SPEED = Quantity("samples_per_second", "samples_per_second_sd", SPEED, from_zero=True)


def value_of(metric: str) -> Quantity:
    """Return the quantity of a task's metric."""
    unit = "\n(nats per token, lower is better)" if is_loss(metric) else ""
    return Quantity("value", "standard_error", metric_name(metric) + unit, _levels_of_value)


def line_figure(points: pd.DataFrame, quantity: Quantity, title: str, baseline: pd.DataFrame | None = None) -> Figure:
    """Return the figure of a quantity over the sparsity that the masks reached.

    The column `row` of the points names their row of panels. `baseline` has another project's values, which are marked in
    every panel."""
    rows = list(points["row"].unique())
    figure, panels = panel_grid(rows, list(points["method"].unique()), height=2.1)
    for (row, method), axes in panels.items():
        part = points[(points["row"] == row) & (points["method"] == method)]
        _draw_lines(axes, part, quantity)
        quantity.draw_levels(axes, part)
        axes.set_title(method if len(rows) == 1 else f"{method}\n{fill(row, 18)}", fontsize="small")
    if quantity.from_zero:
        start_at_zero(panels.values())
    _finish_axes(list(panels.values()), 100 * points["reached_sparsity"])
    add_title(figure, title if len(rows) > 1 else f"{title} ({rows[0]})")
    figure.supylabel(quantity.label, fontsize="medium")
    add_legend(figure, panels.values())
    if baseline is not None:
        _draw_baseline(figure, baseline)
    return figure


def _draw_lines(axes: Axes, points: pd.DataFrame, quantity: Quantity) -> None:
    """Draw a line with error bars per mode."""
    for mode, line in points.groupby("mode", sort=False):
        line = line.sort_values("reached_sparsity")
        place = 100 * line["reached_sparsity"] + SHIFT * (MODES.index(mode) - 1)
        error = line[quantity.error].astype(float)
        axes.errorbar(
            place,
            line[quantity.column],
            yerr=error,
            label=mode,
            linewidth=1.8,
            markersize=5,
            capsize=2.5,
            elinewidth=1,
            **MODE_STYLES[mode],
        )


def _finish_axes(panels: list[Axes], sparsities: pd.Series) -> None:
    """Set the ticks and the range of the x axis, which all panels share."""
    percents = sorted(sparsities.round().astype(int).unique())
    ticks: list[int] = []
    for percent in percents:
        if not ticks or percent - ticks[-1] >= TICK_DISTANCE:
            ticks.append(percent)
    # A short range shows its two ends.
    if len(ticks) == 1 and len(percents) > 1:
        ticks.append(percents[-1])
    panels[0].set_xticks(ticks)
    panels[0].set_xlim(ticks[0] - MARGIN, sparsities.max() + MARGIN)
    for axes in panels:
        axes.xaxis.grid(False)


def _draw_baseline(figure: Figure, baseline: pd.DataFrame) -> None:
    """Mark the values of each baseline in every panel, with a marker of its own that the first panel explains."""
    known = baseline[baseline["value"].notna()]
    if known.empty:
        return
    for marker, (name, points) in zip(cycle(BASELINE_MARKERS), known.groupby("baseline")):
        for axes in figure.axes:
            axes.scatter(
                points["sparsity"],
                points["value"],
                marker=marker,
                s=40,
                facecolors="none",
                edgecolors="black",
                zorder=6,
                label=name,
            )
    names = set(known["baseline"])
    marks = [mark for mark in figure.axes[0].collections if mark.get_label() in names]
    figure.axes[0].legend(handles=marks, fontsize="small", frameon=False)
