"""Choose the figures of a study, and write each as PNG and SVG.

    {task}_{metric}_vs_sparsity      what pruning costs and fine-tuning wins back, with standard errors and chance
    {task}_{metric}_heatmap_{model}  method x sparsity, a panel per mode
    {model}_sparsity_by_block        sparsity reached in the merged models, decoder block x sparsity, a panel per method
    {model}_sparsity_by_projection   the same by kind of layer
    {task}_eval_loss_vs_sparsity     loss on the validation set
    {task}_train_merge_gap           what the merge adds to that loss
    {task}_speed_vs_sparsity         training speed, a row of panels per model and way of training
    {task}_{metric}_vs_speed         that metric against it, a panel per model and way of training, with the Pareto front
    {task}_{metric}_vs_compute       the metric of every training on the selection rows, against the tokens that it reads

A line figure has a column per method and a row per model. Colour and marker both show the mode. If the runs of a model and
task have several settings, each setting has its own figures, whose names begin with setting1_, setting2_, ... A point with a
faulty run is not drawn. A figure is left out if nothing in it differs: if all layers have the same sparsity, or if the merge
adds nothing to the loss. A task whose metric is the loss has one figure of it. The throughput is measured apart from the runs:

    {model}_{task}_throughput_vs_batch_size  speed and memory of the training, a column per method and device. Colour shows
                                             the sparsity, from dark to light (viridis), and dense is black.

The same input gives the same bytes.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sparseft.analysis.captions import (
    Plot,
    compute_chart,
    heat_map,
    layers_plot,
    line_chart,
    speed_chart,
    throughput_chart,
    value_caption,
)
from sparseft.analysis.figures.batch_sizes import throughput_figure
from sparseft.analysis.figures.compute import compute_figure
from sparseft.analysis.figures.curves import GAP, LOSS, TRAINING_SPEED, Quantity, line_figure, value_of
from sparseft.analysis.figures.heat_maps import BLOCKS, KINDS, layer_heat_map, value_heat_map
from sparseft.analysis.figures.speeds import speed_figure
from sparseft.analysis.figures.style import STYLE
from sparseft.analysis.headlines import are_losses, metric_name
from sparseft.analysis.leftovers import MARK, remove_leftovers
from sparseft.analysis.tradeoffs import speed_panels
from sparseft.storage.atomic import atomic_file
from sparseft.storage.processes import end_with_parent
from sparseft.study.grid import TASK_METHODS

# Builds the figure that a Plot describes.
Drawing = Callable[[], Figure]

# Percentage points. A smaller difference between layers is rounding, and no colour shows it.
SAME_SPARSITY = 0.5


@dataclass(frozen=True)
class Cost:
    """Describe a figure of what a study costs: the end of its name, its quantity, and words for its title and caption."""

    name: str
    quantity: Quantity
    words: str
    caption: str
    by_device: bool = False


COSTS = (
    Cost(
        "eval_loss_vs_sparsity",
        LOSS,
        "loss of the merged model",
        "Loss of the merged models on the validation examples, in nats per answer token. Lower is better.",
    ),
    Cost(
        "train_merge_gap",
        GAP,
        "loss of the merged model minus loss before the merge",
        "What the merge adds to the loss: the loss of the merged model minus the loss before the merge. At 0 the merge"
        " changes nothing.",
    ),
    Cost(
        "speed_vs_sparsity",
        TRAINING_SPEED,
        "training speed",
        "Training speed. It belongs to the device and the way of training that are named above each panel, and to no other.",
        by_device=True,
    ),
)


def write_plots(
    points: pd.DataFrame,
    best: pd.DataFrame,
    layers: pd.DataFrame,
    folder: Path,
    processes: int,
    baseline: pd.DataFrame | None = None,
    budget: pd.DataFrame | None = None,
) -> list[Plot]:
    """Write every figure of a study into `folder`, and return the descriptions of the figures.

    `budget` is the table of the trainings. Remove the figures that an earlier call left there. `points`, `best` and `layers`
    are tables of Derived, without the points that have a faulty run. `processes` is the number of figures that are drawn at
    the same time. `baseline` has another project's values, which are marked beside ours."""
    trainings = iter(()) if budget is None else compute_figures(budget)
    return _write(chain(run_figures(points, best, baseline), trainings, layer_figures(layers)), folder, processes)


def write_throughput_plots(table: pd.DataFrame, folder: Path) -> list[Plot]:
    """Write the figures of the measured batch sizes into `folder` as write_plots does, and return their descriptions."""
    return _write(throughput_figures(table), folder, processes=1)


def _write(figures: Iterator[tuple[Plot, Drawing]], folder: Path, processes: int) -> list[Plot]:
    """Write the figures, `processes` at a time, and return their descriptions.

    Each figure is built in the process that draws it. A figure that was sent to another process would not always be drawn
    the same: matplotlib keeps its transforms' parents by their address, which another object can have in that process."""
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        drawings = {plot: pool.submit(_save, build, folder / plot.name) for plot, build in figures}
        for drawing in drawings.values():
            drawing.result()
    remove_leftovers(folder, {f"{plot.name}.{kind}" for plot in drawings for kind in ("png", "svg")})
    return list(drawings)


def _save(build: Drawing, path: Path) -> None:
    """Build a figure and write it to `path` with the endings .png and .svg, without the date."""
    with matplotlib.rc_context(STYLE):
        figure = build()
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            if not axis.get_label_text():
                # Otherwise matplotlib computes a place for the empty label, which takes a tenth of the drawing.
                axis.set_label_coords(0, 0)
        for kind, metadata in (("png", {"Software": MARK}), ("svg", {"Date": None, "Creator": MARK})):
            with atomic_file(path.with_name(f"{path.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
            # The first drawing has laid out the panels, and a second layout would give the same.
            figure.set_layout_engine("none")


def run_figures(
    points: pd.DataFrame, best: pd.DataFrame, baseline: pd.DataFrame | None = None
) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of each setting, task and metric."""
    points = points.assign(row=points["model"])
    for prefix, words, setting in _settings(points):
        of_setting = points[points["setting"] == setting]
        best_of_setting = best[best["setting"] == setting]
        for (task, metric), part in of_setting.groupby(["task", "metric"], sort=False):
            front = best_of_setting[(best_of_setting["task"] == task) & (best_of_setting["metric"] == metric)]
            name = _file_name(f"{prefix}{task}_{metric}")
            yield from _value_figures(part, front, name, f"{task}{words}", baseline)
        for task, part in of_setting.groupby("task", sort=False):
            yield from _cost_figures(part, f"{prefix}{task}", f"{task}{words}")


def compute_figures(budget: pd.DataFrame) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figure of each task and metric whose cells have several trainings."""
    known = budget[["training_tokens", "selection_value"]].notna().all(axis=1)
    tuned = budget[known & (budget["trainings_tried"] > 1)]
    for prefix, words, setting in _settings(tuned):
        for (task, metric), part in tuned[tuned["setting"] == setting].groupby(["task", "metric"], sort=False):
            label = metric_name(metric)
            plot = compute_chart(_file_name(f"{prefix}{task}_{metric}_vs_compute"), part, label)
            title = f"{task}{words}: {label} on the selection rows ± standard error"
            yield plot, partial(compute_figure, part, value_of(metric).label, title)


def _file_name(text: str) -> str:
    """Return a text as the name of a file. The metric of an lm-eval task may end in any name of a filter."""
    return re.sub(r"[^\w.-]", "_", text)


def _settings(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield the prefix of the figures' names, the words for their titles, and the text in the table, per setting."""
    settings = [setting for setting in table["setting"].unique() if setting]
    if (table["setting"] == "").any():
        yield "", "", ""
    for number, setting in enumerate(settings, 1):
        yield f"setting{number}_", f", {setting}", setting


def _value_figures(
    points: pd.DataFrame, front: pd.DataFrame, prefix: str, title: str, baseline: pd.DataFrame | None
) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of one task's metric. `front` has its best points, and `prefix` begins the figures' names."""
    task, metric = points[["task", "metric"]].iloc[0]
    label = metric_name(metric)
    quantity = value_of(metric)
    title_of_value = f"{title}: {label} ± standard error"
    baseline_of_task = None if baseline is None else baseline[baseline["task"] == task]
    plot = line_chart(f"{prefix}_vs_sparsity", "value", points, label, value_caption(points, label))
    yield plot, partial(line_figure, points, quantity, title_of_value, baseline_of_task)
    for model, of_model in points.groupby("model", sort=False):
        plot = heat_map(f"{prefix}_heatmap_{model}", of_model, label)
        yield plot, partial(value_heat_map, of_model, quantity.label, f"{title}: {label} ({model})")
    timed = points[points["samples_per_second"].notna()]
    if len(timed):
        plot = speed_chart(f"{prefix}_vs_speed", timed, label)
        best = front[front["best_for_speed"]]
        yield plot, partial(speed_figure, timed, best, quantity.label, f"{title_of_value} against training speed")


def _cost_figures(points: pd.DataFrame, prefix: str, title: str) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of one task's loss, gap and speed."""
    has_seeds = (points["n"] > 1).any()
    bars = " ± standard deviation over seeds" if has_seeds else ""
    caption_of_bars = " Bars are one standard deviation, over the seeds." if has_seeds else ""
    for cost in COSTS:
        known = points[points[cost.quantity.column].notna()]
        if cost.quantity is LOSS:
            # The figure of the value shows the loss of a task whose metric it is.
            known = known[~are_losses(known)]
        if known.empty or known[cost.quantity.column].abs().max() < cost.quantity.smallest:
            continue
        if cost.by_device:
            known = pd.concat([rows.assign(row=title) for title, rows in speed_panels(known)])
        plot = line_chart(
            f"{prefix}_{cost.name}", cost.quantity.column, known, cost.words, cost.caption + caption_of_bars
        )
        yield plot, partial(line_figure, known, cost.quantity, f"{title}: {cost.words}{bars}")


def layer_figures(layers: pd.DataFrame) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of the layers' sparsities, if the layers differ.

    A method that does not look at a task has the same masks in all tasks, so it has one panel."""
    if layers.empty:
        return
    of_task = layers["method"].isin(TASK_METHODS)
    layers = layers.assign(
        panel=layers["method"].where(~of_task, layers["method"] + "\n" + layers["task"]),
        block=layers["layer"].str.extract(r"\.layers\.(\d+)\.", expand=False).astype(float),
        projection=layers["layer"].str.rpartition(".")[2],
        zeros=layers["sparsity_mean"] * layers["weights"],
    )
    for prefix, words, setting in _settings(layers):
        for model, part in layers[layers["setting"] == setting].groupby("model", sort=False):
            for grouping in (BLOCKS, KINDS):
                reached = _reached(part, grouping.column)
                if _is_even(reached):
                    continue
                name = f"{prefix}{model}_sparsity_by_{grouping.column}"
                plot = layers_plot(name, setting, model, grouping.label)
                yield plot, partial(layer_heat_map, reached, grouping, f"{model}{words}")


def _reached(layers: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the share of zeros in percent, in a row per panel, group of layers and requested sparsity."""
    sums = layers.groupby(["panel", column, "sparsity"], sort=False)[["zeros", "weights"]].sum()
    return (100 * sums["zeros"] / sums["weights"]).astype(float).rename("reached").reset_index()


def _is_even(reached: pd.DataFrame) -> bool:
    """Return whether all layers of each mask have the same sparsity, except for rounding. Scope `layer` makes them so."""
    masks = reached.groupby(["panel", "sparsity"])["reached"]
    return bool(((masks.max() - masks.min()) < SAME_SPARSITY).all())


def throughput_figures(table: pd.DataFrame) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figure of the measured batch sizes of each model and task."""
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        devices = " and ".join(part["device"].unique())
        kinds = " or ".join(part["peak_memory_kind"].unique())
        title = f"{model}, {task}\ntraining on {devices}\n{_what_bars_are(part)}\npeak memory: {kinds}"
        plot = throughput_chart(f"{model}_{task}_throughput_vs_batch_size", model, task, devices)
        yield plot, partial(throughput_figure, part, title)


def _what_bars_are(table: pd.DataFrame) -> str:
    """Return the lines of a title that say what the error bars and the samples are."""
    repeats = table["n"].max()
    if not repeats:
        return "no batch size fitted"
    low = table["tokens_per_sample"].min()
    high = table["tokens_per_sample"].max()
    tokens = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
    bars = f"mean and 95 % interval of {repeats} repeats\n" if repeats > 1 else ""
    return f"{bars}{tokens} tokens a sample"
