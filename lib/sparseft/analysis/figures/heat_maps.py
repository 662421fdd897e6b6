"""Draw values by method and sparsity, and the sparsities of the layers, as heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.figures.style import REQUESTED, WIDTH, add_colour_bar, add_title, panel_grid
from sparseft.analysis.headlines import gain
from sparseft.study.grid import PROJECTIONS

# From dark to light.
COLOURS = "cividis"
# The colour of a cell without a run.
GREY = "0.9"
# The numbers of more columns would touch.
MOST_NUMBERS = 5
# At most about this many decoder blocks are named.
BLOCK_NAMES = 6


@dataclass(frozen=True)
class Grouping:
    """Describe how the layers of a model become the rows of a heat map: by a column of the table of layers.

    `names` has all rows in their order. If it is empty, the rows are numbers, and there may be many."""

    column: str
    label: str
    row_height: float  # inches
    names: tuple[str, ...] = ()


BLOCKS = Grouping("block", "decoder block", 0.075)
KINDS = Grouping("projection", "kind of layer", 0.26, PROJECTIONS)


def value_heat_map(points: pd.DataFrame, label: str, title: str) -> Figure:
    """Return the figure of one model's values by method and sparsity, with a panel per mode."""
    modes = list(points["mode"].unique())
    methods = list(points["method"].unique())
    size = (WIDTH, 1.2 + (0.45 + 0.36 * len(methods)) * len(modes))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(modes), 1, sharex=True, squeeze=False)[:, 0]
    # A loss has no chance, and less of it is better. The better end of the scale is light.
    lowest = points[["chance", "value"]].astype(float).min().min()
    colours = COLOURS if gain(points["metric"].iloc[0]) > 0 else f"{COLOURS}_r"
    scale = {"vmin": lowest, "vmax": points["value"].max(), "cmap": colours}
    for mode, axes in zip(modes, panels, strict=True):
        table = points[points["mode"] == mode].pivot(index="method", columns="sparsity", values="value")
        table = table.reindex(index=methods, columns=sorted(points["sparsity"].unique()))
        _draw_map(axes, table, annot=True, fmt=".2f", linewidths=1, **scale)
        axes.set_title(mode, fontsize="medium")
        axes.tick_params(axis="y", rotation=0)
    panels[-1].set_xlabel(REQUESTED, fontsize="medium")
    add_title(figure, title)
    add_colour_bar(figure, panels, label)
    return figure


def layer_heat_map(reached: pd.DataFrame, grouping: Grouping, model: str) -> Figure:
    """Return the figure of the layers' sparsities, with a panel per method.

    `reached` has the sparsity in percent, in a row per panel, group of layers and requested sparsity."""
    columns = sorted(reached["sparsity"].unique())
    rows = sorted(reached[grouping.column].unique(), key=grouping.names.index if grouping.names else None)
    figure, panels = panel_grid([model], list(reached["panel"].unique()), 0.5 + grouping.row_height * len(rows))
    is_annotated = bool(grouping.names) and len(columns) <= MOST_NUMBERS
    for (_, name), axes in panels.items():
        table = reached[reached["panel"] == name].pivot(index=grouping.column, columns="sparsity", values="reached")
        table = table.reindex(index=rows, columns=columns)
        _draw_map(axes, table, annot=is_annotated, fmt=".0f", vmin=0, vmax=100, cmap=COLOURS)
        axes.set_title(name, fontsize="small")
        axes.tick_params(axis="both", rotation=0)
        _label_cells(axes, rows, columns, grouping)
    figure.supxlabel(REQUESTED, fontsize="medium")
    figure.supylabel(grouping.label, fontsize="medium")
    add_title(figure, f"{model}: sparsity of the merged models by {grouping.label}")
    add_colour_bar(figure, list(panels.values()), "zeros (%)")
    return figure


def _draw_map(axes: Axes, table: pd.DataFrame, **options: object) -> None:
    """Draw a table as coloured cells. A cell without a value stays grey."""
    seaborn.heatmap(table, ax=axes, cbar=False, annot_kws={"fontsize": "small"}, **options)
    axes.set(xlabel="", ylabel="", facecolor=GREY)


def _label_cells(axes: Axes, rows: Sequence, columns: Sequence[int], grouping: Grouping) -> None:
    """Name the rows and columns at the middle of their cells, as many as fit."""
    row_step = 1 if grouping.names else max(1, len(rows) // BLOCK_NAMES)
    row_names = [str(row) if grouping.names else f"{row:.0f}" for row in rows[::row_step]]
    axes.set_yticks([row + 0.5 for row in range(0, len(rows), row_step)], row_names)
    column_step = ceil(len(columns) / MOST_NUMBERS)
    axes.set_xticks([column + 0.5 for column in range(0, len(columns), column_step)], columns[::column_step])
