"""Draw the metric on the selection rows against the training compute: a panel per method and sparsity, a colour per mode."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sparseft.analysis.figures.style import MODE_STYLES, add_legend, add_title, panel_grid

AXIS = "training compute (tokens)"


def compute_figure(table: pd.DataFrame, label: str, title: str) -> Figure:
    """Return the figure of the trainings of one task. `table` has the rows of budget.csv with tokens and a selection value."""
    table = table.assign(panel=table["method"] + "\n" + table["sparsity"].astype(str) + " %")
    rows = list(table["model"].unique())
    columns = list(table["panel"].unique())
    figure, panels = panel_grid(rows, columns, height=2.6)
    for (model, panel), axes in panels.items():
        _draw_panel(axes, table[(table["model"] == model) & (table["panel"] == panel)])
        axes.set_title(panel if len(rows) == 1 else f"{model}, {panel}", fontsize="small")
        axes.set_xlabel(AXIS if axes.get_xlabel() else "", fontsize="small")
        axes.set_ylabel(label, fontsize="small")
    add_title(figure, title)
    add_legend(figure, panels.values())
    return figure


def _draw_panel(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the trainings of each mode as a line over their compute, and a ring around the chosen one."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    for mode, members in table.groupby("mode", sort=False):
        line = members.sort_values("training_tokens")
        axes.errorbar(
            line["training_tokens"],
            line["selection_value"],
            yerr=line["selection_standard_error"],
            label=mode,
            linewidth=1,
            elinewidth=0.6,
            markersize=5,
            **MODE_STYLES[mode],
        )
    chosen = table[table["chosen"]]
    axes.scatter(
        chosen["training_tokens"],
        chosen["selection_value"],
        s=110,
        facecolors="none",
        edgecolors="black",
        label="chosen",
        zorder=4,
    )
