"""Share what all figures have in common: colours, sizes, titles, legends and the grid of panels."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from math import ceil
from textwrap import fill

import matplotlib

# Seaborn draws through pyplot, which would otherwise open a display.
matplotlib.use("Agg")

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.study.grid import MODES

# Inches. In a paper's column of 3.3 inches, the letters of 9.5 to 11 points are 6 to 7 points high.
WIDTH = 5.2
# At most this many panels are side by side.
ACROSS = 3
# Characters in a line of a title.
TITLE = 46

REACHED = "sparsity reached (%)"
REQUESTED = "sparsity asked for (%)"
SPEED = "training speed\n(samples/s)"

_COLOURS = seaborn.color_palette("colorblind")
_MODE_STYLES = [
    {"color": _COLOURS[colour], "marker": marker}
    for colour, marker in ((7, "o"), (0, "s"), (3, "^"), (2, "D"), (4, "v"), (1, "P"), (5, "X"), (8, "<"), (9, ">"))
]
# The colour and the marker of each mode. Readers who cannot tell the colours apart have the markers.
MODE_STYLES = dict(zip(MODES, cycle(_MODE_STYLES), strict=False))
# Settings of matplotlib while a figure is built and written.
STYLE = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("notebook", font_scale=0.95),
    "grid.color": "0.88",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Without this, every drawing looks for ticks above the panel, which takes a fifth of its time.
    "axes.titley": 1.0,
    # Without this, the ids in an SVG differ from run to run.
    "svg.hashsalt": "sparseft",
    "savefig.dpi": 150,
    # The name of a device may contain a dollar sign.
    "text.parse_math": False,
}


def panel_grid(
    rows: Sequence[str], columns: Sequence[str], height: float
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Return a figure and its panels, by row and column.

    The figure is WIDTH inches wide, and a line of panels is `height` inches high. A row of more than ACROSS panels
    continues in the next line. All panels share the x axis, the sparsity. The panels of a row share the y axis."""
    across = min(len(columns), ACROSS)
    lines = ceil(len(columns) / across)
    figure = Figure(figsize=(WIDTH, 1.5 + height * lines * len(rows)), layout="constrained")
    grid = figure.subplots(lines * len(rows), across, sharex=True, squeeze=False)
    panels = {}
    for number, row in enumerate(rows):
        row_axes = list(grid[number * lines : (number + 1) * lines].ravel())
        _finish_row(row_axes, len(columns), across, is_last=number == len(rows) - 1)
        panels |= {(row, column): axes for column, axes in zip(columns, row_axes, strict=False)}
    return figure, panels


def _finish_row(row_axes: list[Axes], count: int, across: int, *, is_last: bool) -> None:
    """Remove the panels after the first `count`, and label only the outer axes of the others."""
    for axes in row_axes[count:]:
        axes.remove()
    for place, axes in enumerate(row_axes[:count]):
        if place:
            axes.sharey(row_axes[0])
        is_lowest = is_last and place + across >= count
        axes.tick_params(labelleft=place % across == 0, labelbottom=is_lowest)
        axes.set_xlabel(REACHED if is_lowest else "", fontsize="small")


def add_title(figure: Figure, text: str) -> None:
    """Put a title above the panels."""
    figure.suptitle(fill(text, TITLE), fontsize="medium", fontweight="bold")


def modes_first(label: str) -> tuple[bool, str]:
    """Return the sort key by which a legend lists the modes before everything else."""
    return label not in MODES, label


def add_legend(figure: Figure, panels: Iterable[Axes], order: Callable[[str], object] = modes_first) -> None:
    """Put one legend for all panels below them, with its entries sorted by `order`."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles, key=order)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize="small",
    )


def add_colour_bar(figure: Figure, panels: Sequence[Axes], label: str) -> None:
    """Put the colour scale of the first panel, which all panels share, to their right."""
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, fraction=0.05, aspect=25)


def draw_level(axes: Axes, height: float, label: str, linestyle: str, linewidth: float = 1.0) -> None:
    """Draw a horizontal line behind the curves."""
    axes.axhline(height, color="0.25", linestyle=linestyle, linewidth=linewidth, label=label, zorder=1)


def start_at_zero(panels: Iterable[Axes]) -> None:
    """Let the y axes begin at 0, because readers compare speeds by their ratio, and leave room for the highest marker.

    Call this once all panels are drawn. Panels that share an axis no longer extend it once its range is set."""
    panels = list(panels)
    tops = [axes.get_ylim()[1] for axes in panels]
    for axes, top in zip(panels, tops, strict=True):
        axes.set_ylim(0, 1.08 * top)
