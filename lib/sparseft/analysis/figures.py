"""Choose and draw the figures of a study, each as PNG and SVG.

    {task}_{metric}_vs_sparsity     the value, with what guessing and the dense model score
    {task}_loss_vs_sparsity         the loss on the validation examples
    {task}_{perplexity}_vs_sparsity the perplexity of a text
    {task}_divergence_vs_sparsity   the divergence from dense, in place of the loss on windows that dense has sampled

The batch sizes that `snakemake throughput` measured have figures of their own.

Bars are 95 % intervals. With one or two sparsities, there is a row per method, before and after training, and a panel
per model. With more, a line is a method, and there is a panel per model and mode. If runs of a model and task differ in
a setting, each setting has its own figures, whose names begin with setting1_, setting2_, ... Cells with a fault are not
drawn. The same figure gives the same bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

# Seaborn draws through pyplot, which would otherwise open a display.
matplotlib.use("Agg")

import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogFormatter

from sparseft.analysis.cells import PLACE
from sparseft.analysis.comparisons import sections
from sparseft.analysis.sentences import FEW, dense_name, pruned_name, ranked_by, when
from sparseft.analysis.study import SOUND
from sparseft.analysis.tables import Results
from sparseft.axes.grid import DENSE, MODES
from sparseft.axes.tasks import get_metric
from sparseft.axes.tasks.metrics import LOSS, PERPLEXITIES
from sparseft.data.settings import DIVERGENCE

# The metadata of every figure.
MARK = "SparseFT analysis"
# Inches. In a paper's column of 3.3 inches, the letters of 9.5 to 11 points are 6 to 7 points high.
WIDTH = 5.2
# Characters in a line of a title of this width.
TITLE = 50
SETTINGS = {
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
    # The name of a setting may contain a dollar sign.
    "text.parse_math": False,
}
# Seven markers beside eight colours, so that 56 methods have looks of their own. Readers who cannot tell the colours
# apart have the markers.
_COLOURS = [seaborn.color_palette("colorblind")[place] for place in (0, 3, 2, 7, 1, 4, 5, 8)]
_MARKERS = "os^Dv<X"
# The share of the x axis between the lines of two methods, so that equal values stay visible beside each other.
SHIFT = 0.015
# Points: the width of a line, the size of a marker, and how much wider than this a line may be drawn.
LINE, MARKER, WIDEST = 1.5, 5, 5
X = "reached_sparsity"
# The columns that have intervals.
BARS = ("value", "eval_loss", DIVERGENCE)
# The distance of two modes in a row.
APART = 0.22


@dataclass(frozen=True, eq=False)
class Figure:
    """Describe a figure: the name of its files without the ending, where it belongs, the column that it shows against
    the sparsity with its label, its words, and the points of its lines."""

    name: str
    task: str
    metric: str
    setting: str
    y: str
    label: str
    title: str
    alt: str
    caption: str
    points: pd.DataFrame


def write_figures(folder: Path, results: Results) -> list[Figure]:
    """Write every figure of a study into `folder`, without the date, and return their descriptions."""
    figures = list(study_figures(results))
    with matplotlib.rc_context(SETTINGS):
        for figure in figures:
            _save(drawing(figure), folder / figure.name)
    return figures


def write_throughput_figures(folder: Path, table: pd.DataFrame) -> None:
    """Write a figure per model and task into `folder`: speed and memory against the batch size, a line per
    sparsity, mode and training."""
    keys = ["method", "mode", "device", "batch_size", "sparsity"]
    measures = ["samples_per_second", "tokens_per_second", "peak_memory_gb"]
    table = table.assign(peak_memory_gb=table["peak_memory_bytes"].astype(float) / 1e9)
    # Otherwise a line would be the mean of several trainings.
    table["mode"] = [", ".join(filter(None, names)) for names in zip(table["mode"], table["training"], strict=True)]
    axes = {"x": "batch_size", "y": "value", "hue": "sparsity", "style": "mode", "row": "measure", "col": "method"}
    look = {"kind": "line", "marker": "o", "height": 2.6, "facet_kws": {"sharey": "row", "margin_titles": True}}
    with matplotlib.rc_context(SETTINGS):
        for (model, task), part in table.groupby(["model", "task"], sort=False):
            panels = seaborn.relplot(part.melt(keys, measures, "measure").dropna(), **axes, **look)
            _save(panels.figure, folder / f"{model}_{task}_throughput_vs_batch_size")


def _save(figure: Drawing, path: Path) -> None:
    """Write a figure with the endings .png and .svg, without the date."""
    for kind, metadata in (("png", {"Software": MARK}), ("svg", {"Date": None, "Creator": MARK})):
        figure.savefig(path.with_name(f"{path.name}.{kind}"), metadata=metadata)
        # The first drawing has laid out the panels, and a second layout would give the same.
        figure.set_layout_engine("none")


def study_figures(results: Results) -> Iterator[Figure]:
    """Yield each figure of a study."""
    points = lines_of(results)
    settings = [text for text in points["setting"].unique() if text]
    for (setting, task, metric), part in points.groupby(["setting", "task", "metric"], sort=False):
        prefix = f"setting{settings.index(setting) + 1}_{task}" if setting else task
        own = results.curves[(results.curves["task"] == task) & (results.curves["metric"] == metric)]
        is_sampled = {ranked_by(rows) for _, rows in own.groupby("model")} == {DIVERGENCE}
        for kind, y, label, words in _charts(part, metric, is_sampled):
            known = part.dropna(subset=y)
            if known.empty:
                continue
            title = f"{task}: {words}" + (f", {setting}" if setting else "")
            name = re.sub(r"[^\w.-]", "_", f"{prefix}_{kind}_vs_sparsity")
            methods = ", ".join(known["method"].unique())
            kind_of_chart = "row" if _has_few(known) else "line"
            alt = f"Chart: {title}. A {kind_of_chart} per method: {methods}. The tables have the same values."
            caption = words[:1].upper() + words[1:] + "."
            caption += " Bars are 95 % intervals." if y in BARS else ""
            caption += " Dashed: dense; dotted: guessing." if y == "value" or _has_few(known) else ""
            yield Figure(name, task, metric, setting, y, label, title, alt, caption, known)


def _has_few(points: pd.DataFrame) -> bool:
    """Return whether the points have so few sparsities that lines would say little."""
    return points.loc[points["sparsity"] > 0, "sparsity"].nunique() <= FEW


def _charts(points: pd.DataFrame, metric: str, is_sampled: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield what the figures of one task show: the kind of each, its column, the label of the axis, and its words."""
    if is_sampled:
        yield DIVERGENCE, DIVERGENCE, "divergence from dense (nats per token)", "divergence from dense"
        return
    label = get_metric(metric).label + (" (nats per token)" if metric == LOSS.name else "")
    yield metric, "value", label, label
    if metric != LOSS.name:
        yield "loss", "eval_loss", "loss (nats per answer token)", "loss"
    yield from ((name, name, "perplexity", f"perplexity ({name})") for name in points if name.startswith(PERPLEXITIES))


def lines_of(results: Results) -> pd.DataFrame:
    """Return the points of all lines: the chosen cells, with the dense cell of its mode before each line."""
    points = sections(results.curves[results.curves["status"].isin(SOUND)])
    is_dense, place = points["method"] == DENSE, [*PLACE, "setting", "dense_mode"]
    lines = points[~is_dense][[*place, "method", "mode"]].drop_duplicates()
    dense = points[is_dense].drop(columns=["method", "mode"])
    points = pd.concat([lines.merge(dense, on=place), points[~is_dense]], ignore_index=True)
    looks = zip(points["method"].unique(), cycle(_COLOURS), cycle(_MARKERS), strict=False)
    looks = pd.DataFrame(looks, columns=["method", "color", "marker"])
    return points.merge(looks, on="method", how="left")


def drawing(chart: Figure) -> Drawing:
    """Return a figure as it is drawn, with a row of panels per model. Lines have a column of panels per mode."""
    points, has_rows = chart.points, _has_few(chart.points)
    rows, modes = points["model"].unique(), sorted(points["mode"].unique(), key=MODES.index)
    columns, height, draw = [[mode] for mode in modes], 2.5, _draw_lines
    if has_rows:
        columns, height, draw = [modes], 0.5 + 0.45 * len(_pruned_names(points)), _draw_rows
    figure = Drawing(figsize=(max(WIDTH, 2.6 * len(columns)), 1.7 + height * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
    for model, line in zip(rows, panels, strict=True):
        for own, axes in zip(columns, line, strict=True):
            draw(axes, points[(points["model"] == model) & points["mode"].isin(own)], chart.y)
            names = [model] * (len(rows) > 1) + ([] if has_rows else own)
            axes.set_title("\n".join(names), fontsize="small")
            if chart.y.startswith(PERPLEXITIES):
                axis = axes.xaxis if has_rows else axes.yaxis
                (axes.set_xscale if has_rows else axes.set_yscale)("log")
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    for axes in panels[-1]:
        axes.set_xlabel(chart.label if has_rows else "sparsity reached (%)", fontsize="small")
    title = chart.title + (f" ({rows[0]})" if len(rows) == 1 else "")
    figure.suptitle(fill(title, int(TITLE * figure.get_figwidth() / WIDTH)), fontsize="medium", fontweight="bold")
    if not has_rows:
        figure.supylabel(chart.label, fontsize="medium")
    # One legend for all panels.
    handles: dict[str, Artist] = {}
    for axes in panels.flat:
        drawn, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    width = 2 if max(map(len, handles), default=0) < TITLE / 2 else 1
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=width, frameon=False, fontsize="small")
    return figure


def _draw_rows(axes: Axes, points: pd.DataFrame, column: str) -> None:
    """Draw a row per method and sparsity with its value in each mode, and the levels of the dense models."""
    modes, rows = sorted(points["mode"].unique(), key=MODES.index), _pruned_names(points)
    levels: dict[float, str] = {}
    for place, mode in enumerate(modes):
        own = points[(points["mode"] == mode) & (points["sparsity"] > 0)]
        heights = [rows.index(pruned_name(row)) + APART * (place - (len(modes) - 1) / 2) for row in own.itertuples()]
        look = {"color": _COLOURS[place], "marker": _MARKERS[place]}
        dense = points[(points["mode"] == mode) & (points["sparsity"] == 0)]
        axes.errorbar(
            own[column], heights, xerr=_bars(own, column), label=when(mode), linestyle="none", capsize=2.5, **look
        )
        levels = dict(zip(dense[column], dense["dense_mode"].map(dense_name), strict=True)) | levels
    levels |= {points["chance"].iloc[0]: "guessing"} if column == "value" else {}
    for (level, name), dashes in zip(levels.items(), cycle(("--", "-.", ":"))):
        if pd.notna(level):
            axes.axvline(level, color="0.25", linestyle=dashes, linewidth=1.2, label=name)
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    axes.invert_yaxis()


def _pruned_names(points: pd.DataFrame) -> list[str]:
    """Return the names of the rows, in the order of the study."""
    return [*dict.fromkeys(map(pruned_name, points[points["sparsity"] > 0].itertuples()))]


def _bars(points: pd.DataFrame, column: str) -> list[pd.Series] | None:
    """Return how far the interval of each point reaches below and above it; None without intervals."""
    y = points[column]
    return [y - points[f"{column}_low"], points[f"{column}_high"] - y] if column in BARS else None


def _draw_lines(axes: Axes, points: pd.DataFrame, column: str) -> None:
    """Draw a line per method, and the levels of the dense model and of guessing."""
    lines = points.groupby("method", sort=False)
    step = SHIFT * points[X].max()
    for number, (method, line) in enumerate(lines):
        line = line.sort_values("sparsity")
        # All lines begin in the dense point.
        place = line[X] + step * (number - (len(lines) - 1) / 2) * (line["sparsity"] > 0)
        # The first line is the widest, so that it is seen on both sides of one that lies on it.
        extra = (len(lines) - 1 - number) * min(1.4, WIDEST / len(lines))
        look: dict[str, Any] = {"linewidth": LINE + extra, "markersize": MARKER + 2 * extra}
        look |= {"capsize": 2.5, "elinewidth": 1, **line[["color", "marker"]].iloc[0]}
        axes.errorbar(place, line[column], yerr=_bars(line, column), label=method, **look)
    if column == "value" and len(points):
        dense = points["value"][points["sparsity"] == 0].max()
        for level, label, dashes in ((points["chance"].iloc[0], "guessing", ":"), (dense, "dense", "--")):
            if pd.notna(level):
                axes.axhline(level, color="0.25", linestyle=dashes, linewidth=1.2, label=label, zorder=3)
