"""Draw a task's metric against the training speed, with the Pareto front."""

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.figures.style import MODE_STYLES, TITLE, WIDTH, add_legend, add_title
from sparseft.analysis.tables import asked_and_reached
from sparseft.analysis.tradeoffs import speed_panels

DENSE_STYLE = {"color": "black", "marker": "D"}


def speed_figure(points: pd.DataFrame, front: pd.DataFrame, label: str, title: str) -> Figure:
    """Return the figure of the values against the speeds. `front` has the points of the Pareto front.

    A panel shows the points of one model whose speeds can be compared."""
    both = pd.concat([points.assign(is_best=False), front.assign(is_best=True)], ignore_index=True)
    places = speed_panels(both)
    figure = Figure(figsize=(WIDTH, 1 + 3.4 * len(places)), layout="constrained")
    panels = figure.subplots(len(places), 1, sharey=True, squeeze=False)[:, 0]
    for (place, rows), axes in zip(places, panels, strict=True):
        best = rows[rows["is_best"]].sort_values("samples_per_second")
        _draw_points(axes, rows[~rows["is_best"]])
        _draw_front(axes, best)
        axes.set_title(fill(place, TITLE), fontsize="medium")
        axes.set_xlabel("\n".join(["training speed (samples/s)", *_front_names(best)]), fontsize="small")
        axes.set_ylabel(label, fontsize="medium")
    add_title(figure, title)
    add_legend(figure, panels)
    return figure


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    """Draw the points of each mode with their standard errors."""
    is_dense = points["sparsity"] == 0
    pruned = points[~is_dense]
    for mode, style in MODE_STYLES.items():
        _draw_marks(axes, pruned[pruned["mode"] == mode], mode, style)
    # The dense point belongs to every curve, and is drawn once.
    _draw_marks(axes, points[is_dense][:1], "dense, plain LoRA", DENSE_STYLE)


def _draw_marks(axes: Axes, points: pd.DataFrame, label: str, style: dict[str, object]) -> None:
    """Draw points with their standard errors. Without points, draw nothing."""
    if points.empty:
        return
    axes.errorbar(
        points["samples_per_second"],
        points["value"],
        yerr=points["standard_error"],
        label=label,
        linestyle="none",
        markersize=5,
        elinewidth=0.6,
        alpha=0.75,
        **style,
    )


def _draw_front(axes: Axes, front: pd.DataFrame) -> None:
    """Draw the Pareto front as a step line, with the number of each of its points."""
    speeds = front["samples_per_second"]
    axes.step(speeds, front["value"], where="pre", color="black", linewidth=1.2, label="Pareto front", zorder=4)
    for number, point in enumerate(front.itertuples(), 1):
        axes.annotate(number, (point.samples_per_second, point.value), xytext=(5, 5), textcoords="offset points")
    # Leave room for the numbers.
    axes.margins(0.1)


def _front_names(front: pd.DataFrame) -> list[str]:
    """Return what the numbers of the front stand for."""
    return [
        f"{number}: {row.method} {asked_and_reached(row)} %, {row.mode}"
        for number, row in enumerate(front.itertuples(), 1)
    ]
