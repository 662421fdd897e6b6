"""Draw the metric on the selection rows against the training compute: a panel per method and sparsity, a colour per mode."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from sparseft.analysis.figures.style import MODE_STYLES, add_legend, add_title, panel_grid

AXIS = "training compute\n(tokens)"
# At most this many numbers below a panel.
TICKS = 3
# Ratio of the places of two modes with equal compute, so that both are visible.
SHIFT = 1.04


def compute_figure(table: pd.DataFrame, label: str, title: str) -> Figure:
    """Return the figure of the trainings of one task. `table` has the rows of budget.csv with tokens and a selection value."""
    table = table.assign(panel=table["method"] + "\n" + table["sparsity"].astype(str) + " %")
    rows = list(table["model"].unique())
    figure, panels = panel_grid(rows, list(table["panel"].unique()), height=2.6)
    for (model, panel), axes in panels.items():
        _draw_panel(axes, table[(table["model"] == model) & (table["panel"] == panel)])
        axes.set_title(panel if len(rows) == 1 else f"{model}\n{panel}", fontsize="small")
        axes.set_xlabel(AXIS if axes.get_xlabel() else "", fontsize="small")
        axes.set_ylabel(label if axes.get_subplotspec().is_first_col() else "", fontsize="small")
    _set_ticks(next(iter(panels.values())), table["training_tokens"])
    add_title(figure, title)
    add_legend(figure, panels.values())
    return figure


def _draw_panel(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the trainings of each mode with their standard errors, and a ring around the chosen ones."""
    axes.set_xscale("log")
    modes = list(table["mode"].unique())
    for number, mode in enumerate(modes):
        members = table[table["mode"] == mode]
        place = members["training_tokens"] * SHIFT ** (number - (len(modes) - 1) / 2)
        value = members["selection_value"]
        error = members["selection_standard_error"]
        style = MODE_STYLES[mode]
        axes.errorbar(place, value, yerr=error, label=mode, linestyle="none", markersize=5, elinewidth=0.6, **style)
        chosen = members["chosen"].astype(bool)
        ring = {"facecolors": "none", "edgecolors": "black", "label": "chosen"}
        axes.scatter(place[chosen], value[chosen], s=110, zorder=4, clip_on=False, **ring)
    axes.margins(0.15)


def _set_ticks(axes: Axes, tokens: pd.Series) -> None:
    """Put numbers below a few of the trainings. All panels share this axis."""
    distinct = np.unique(tokens)
    few = distinct[np.unique(np.linspace(0, len(distinct) - 1, TICKS).round().astype(int))]
    axes.xaxis.set_major_locator(FixedLocator(few))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep="", places=0))
