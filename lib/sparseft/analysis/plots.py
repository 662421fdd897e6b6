"""The figures of the study, each as PNG and SVG.

    {task}_{metric}_vs_sparsity      what pruning costs and fine-tuning wins back, with standard errors and chance
    {task}_{metric}_heatmap_{model}  method x sparsity, one panel a mode
    {model}_sparsity_by_block        sparsity reached in the merged models, decoder block x sparsity, a panel a method
    {model}_sparsity_by_projection   the same by kind of layer
    {task}_eval_loss_vs_sparsity     loss on the validation set
    {task}_train_merge_gap           what the merge adds to that loss
    {task}_speed_vs_sparsity         training speed, a row a model and device
    {task}_{metric}_vs_speed         that metric against it, a panel a model and device, with the Pareto front

A line figure has a column per method and a row per model; colour and marker both tell the mode. Where runs of a model and
task have several settings, each setting has figures of its own, whose names begin with setting1_, setting2_, ... Points
with a run that has a fault are not drawn. A figure in which nothing differs is left out: layers that all have the same
sparsity, and a merge that adds nothing to the loss. Measured apart from the runs:

    {model}_{task}_throughput_vs_batch_size  speed and memory of the training, a column a method and device; colour
                                             tells the sparsity, from dark to light (viridis), dense is black

The same input gives the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")  # before seaborn asks for a display

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.analysis.captions import (
    Plot,
    heat_map,
    layers_plot,
    line_chart,
    metric_name,
    speed_chart,
    throughput_chart,
    value_caption,
)
from sparseft.analysis.leftovers import MARK, remove_leftovers
from sparseft.analysis.tables import asked_and_reached
from sparseft.storage.atomic import atomic_file
from sparseft.storage.processes import end_with_parent
from sparseft.study.grid import DENSE, MODES, NO_FINETUNE, OUT_OF_MEMORY, PROJECTIONS, TASK_METHODS

Drawing = Callable[[], Figure]  # builds the figure

REACHED = "sparsity reached (%)"
ASKED = "sparsity asked for (%)"
GAP = "train-merge gap\n(nats per answer token)"
LOSS = "evaluation loss\n(nats per answer token)"
ROWS = {
    "samples_per_second": "training speed\n(samples/s)",
    "tokens_per_second": "training speed\n(tokens/s)",
    "peak_memory": "peak memory\n(GB)",
}
SAME_SPARSITY = 0.5  # percentage points: a smaller difference between layers is rounding, and no colour shows it
SAME_LOSS = 5e-4  # nats per answer token: the tables' three digits show no smaller gap

WIDTH = 5.2  # inches: at a paper's column of 3.3 its letters of 9.5 to 11 points are 6 to 7 high
ACROSS = 3  # panels side by side
TITLE = 46  # letters of a title's line

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
    "axes.titley": 1.0,  # else every drawing looks for ticks above the panel, a fifth of its time
    "svg.hashsalt": "sparseft",  # else the ids in an SVG differ from run to run
    "savefig.dpi": 150,
    "text.parse_math": False,  # a device may be called $x
}


def write_plots(
    points: pd.DataFrame,
    best: pd.DataFrame,
    layers: pd.DataFrame,
    folder: Path,
    processes: int,
    baseline: pd.DataFrame | None = None,
) -> list[Plot]:
    """Draw every figure from the points of the curves, the best of them and the layers' sparsities into `folder`.

    Remove the figures that an earlier call left there. `processes` is how many draw side by side. `baseline` has another
    project's values, which are marked beside ours."""
    return _write(chain(_figures(points, best, baseline), _layer_figures(layers)), folder, processes)


def write_throughput_plots(table: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw the measured batch sizes into `folder`, as write_plots does, and return the figures."""
    return _write(_throughput_figures(table), folder, processes=1)


def _write(figures: Iterator[tuple[Plot, Drawing]], folder: Path, processes: int) -> list[Plot]:
    """Draw the figures, `processes` at a time, and return them.

    Each is built where it is drawn. A figure that was sent to another process would not always be drawn the same: matplotlib
    keeps its transforms' parents by their address, which another object can have in the other process."""
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        drawn = {plot: pool.submit(_save, build, folder / plot.name) for plot, build in figures}
        for one in drawn.values():
            one.result()
    remove_leftovers(folder, {f"{plot.name}.{kind}" for plot in drawn for kind in ("png", "svg")})
    return list(drawn)


def _save(build: Drawing, path: Path) -> None:
    with matplotlib.rc_context(_STYLE):
        figure = build()
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            if not axis.get_label_text():
                axis.set_label_coords(0, 0)  # else a place is sought for it, a tenth of the drawing
        for kind, undated in (("png", {"Software": MARK}), ("svg", {"Date": None, "Creator": MARK})):
            with atomic_file(path.with_name(f"{path.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, metadata=undated)
            figure.set_layout_engine("none")  # laid out by the first drawing; once is enough


def _figures(points: pd.DataFrame, best: pd.DataFrame, baseline: pd.DataFrame | None) -> Iterator[tuple[Plot, Drawing]]:
    points = points.assign(row=points["model"])
    for prefix, words, setting in _settings(points):
        own, own_best = points[points["setting"] == setting], best[best["setting"] == setting]
        for (task, metric), part in own.groupby(["task", "metric"], sort=False):
            front = own_best[(own_best["task"] == task) & (own_best["metric"] == metric)]
            yield from _value_figures(part, front, f"{prefix}{task}_{metric}", f"{task}{words}", baseline)
        for task, part in own.groupby("task", sort=False):
            yield from _cost_figures(part, f"{prefix}{task}", f"{task}{words}")


def _settings(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield for each setting the beginning of its figures' names, what their titles say of it, and its text in the table."""
    settings = [setting for setting in table["setting"].unique() if setting]
    if (table["setting"] == "").any():
        yield "", "", ""
    for number, setting in enumerate(settings, 1):
        yield f"setting{number}_", f", {setting}", setting


def _value_figures(
    points: pd.DataFrame, front: pd.DataFrame, prefix: str, title: str, baseline: pd.DataFrame | None
) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of one task's metric; `front` has its best points, `prefix` begins the figures' names."""
    task, metric = points[["task", "metric"]].iloc[0]
    label = metric_name(metric)
    whole = f"{title}: {label} ± standard error"
    marks = None if baseline is None else baseline[baseline["task"] == task]
    plot = line_chart(f"{prefix}_vs_sparsity", "value", points, label, value_caption(points, label))
    yield plot, partial(_line_figure, points, "value", label, "standard_error", whole, marks)
    for model, of_model in points.groupby("model", sort=False):
        plot = heat_map(f"{prefix}_heatmap_{model}", of_model, label)
        yield plot, partial(_heat_map, of_model, title=f"{title}: {label} ({model})", label=label)
    timed = points[points["samples_per_second"].notna()]
    if len(timed):
        best = front[front["best_for_speed"]]
        plot = speed_chart(f"{prefix}_vs_speed", timed, label)
        yield plot, partial(_speed_figure, timed, best, label, title=f"{whole} against training speed")


def _cost_figures(points: pd.DataFrame, prefix: str, title: str) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of one task's loss, gap and speed."""
    several = (points["n"] > 1).any()
    bars = " ± standard deviation over seeds" if several else ""
    said = " Bars are one standard deviation, over the seeds." if several else ""
    on_device = points.assign(row=points["model"] + " on " + points["device"].fillna(""))
    for name, (column, rows, label, words, caption) in {
        "eval_loss_vs_sparsity": (
            "eval_loss", points, LOSS, "loss of the merged model",
            "Loss of the merged models on the validation examples, in nats per answer token. Lower is better.",
        ),
        "train_merge_gap": (
            "train_merge_gap", points, GAP, "loss of the merged model minus loss before the merge",
            "What the merge adds to the loss: the loss of the merged model minus the loss before the merge. At 0 the merge"
            " changes nothing.",
        ),
        "speed_vs_sparsity": (
            "samples_per_second", on_device, ROWS["samples_per_second"], "training speed",
            "Training speed. It belongs to the device that is named above each panel, and to no other.",
        ),
    }.items():  # fmt: skip
        known = rows[rows[column].notna()]
        if _says_nothing(column, known):
            continue
        plot = line_chart(f"{prefix}_{name}", column, known, words, caption + said)
        yield plot, partial(_line_figure, known, column, label, f"{column}_sd", f"{title}: {words}{bars}")


def _says_nothing(column: str, known: pd.DataFrame) -> bool:
    """Return whether a line figure of a column is empty, or shows a gap that is 0 everywhere."""
    return known.empty or (column == "train_merge_gap" and known[column].abs().max() < SAME_LOSS)


def _line_figure(
    points: pd.DataFrame, column: str, label: str, error: str, title: str, baseline: pd.DataFrame | None = None
) -> Figure:
    """Return a column over sparsity, with `error` as bars; `baseline`: another project's values, marked in every panel."""
    rows, methods = list(points["row"].unique()), list(points["method"].unique())
    figure, panels = _panels(rows, methods, 2.1)
    for (row, method), axes in panels.items():
        part = points[(points["row"] == row) & (points["method"] == method)]
        _draw_lines(axes, part, column, error)
        if column == "value" and len(part):
            _draw_levels(axes, part)
        axes.set_title(method if len(rows) == 1 else f"{method}\n{fill(row, 18)}", fontsize="small")
        if column == "train_merge_gap":
            axes.axhline(0, color="0.25", linestyle=":", linewidth=1.4, label="no gap", zorder=1)
    if column == "samples_per_second":
        _start_at_zero(list(panels.values()))
    _finish_axes(list(panels.values()), 100 * points["reached_sparsity"])
    figure.suptitle(
        fill(title if len(rows) > 1 else f"{title} ({rows[0]})", TITLE), fontsize="medium", fontweight="bold"
    )
    figure.supylabel(label, fontsize="medium")
    _add_legend(figure, panels.values(), order=lambda text: (text not in MODES, text))
    if baseline is not None:
        _draw_baseline(figure, baseline)
    return figure


def _start_at_zero(panels: list[Axes]) -> None:
    """Let the y axes begin at 0, because a ratio of speeds is read off them, and end above the fastest.

    This comes after all panels are drawn: those of a row share an axis, whose range no longer grows once it is set."""
    tops = [axes.get_ylim()[1] for axes in panels]
    for axes, top in zip(panels, tops, strict=True):
        axes.set_ylim(0, 1.08 * top)  # room for a marker


def _panels(rows: list[str], columns: list[str], height: float) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A panel a row and column, WIDTH wide whatever their number: a row that is longer than ACROSS goes on below.

    All share the x axis, of sparsities, and the panels of a row the y axis."""
    across = min(len(columns), ACROSS)
    lines = -(-len(columns) // across)  # of one row
    figure = Figure(figsize=(WIDTH, 1.5 + height * lines * len(rows)), layout="constrained")
    grid = figure.subplots(lines * len(rows), across, sharex=True, squeeze=False)
    panels = {}
    for number, row in enumerate(rows):
        own = grid[number * lines : (number + 1) * lines].ravel()
        for axes in own[len(columns) :]:
            axes.remove()
        for place, (column, axes) in enumerate(zip(columns, own, strict=False)):
            panels[row, column] = axes
            if place:
                axes.sharey(own[0])
            lowest = place + across >= len(columns) and number == len(rows) - 1
            axes.tick_params(labelleft=place % across == 0, labelbottom=lowest)
            axes.set_xlabel(REACHED if lowest else "", fontsize="small")
    return figure, panels


def _draw_baseline(figure: Figure, baseline: pd.DataFrame) -> None:
    """Its values in every panel, each baseline with a mark of its own, named in the first panel."""
    known = baseline[baseline["value"].notna()]
    for marker, (name, points) in zip(cycle("Dv*PX"), known.groupby("baseline")):
        for axes in figure.axes:
            axes.scatter(points["sparsity"], points["value"], marker=marker, s=40, facecolors="none",
                         edgecolors="black", zorder=6, label=name)  # fmt: skip
    if len(known):
        marks = [mark for mark in figure.axes[0].collections if mark.get_label() in set(known["baseline"])]
        figure.axes[0].legend(handles=marks, fontsize="small", frameon=False)


def _speed_figure(points: pd.DataFrame, front: pd.DataFrame, label: str, *, title: str) -> Figure:
    """A panel a model and device: the speeds of two devices never share one."""
    places = list(points.groupby(["model", "device"], sort=False).groups)
    figure = Figure(figsize=(WIDTH, 1 + 3.4 * len(places)), layout="constrained")
    panels = figure.subplots(len(places), 1, sharey=True, squeeze=False)[:, 0]
    for (model, device), axes in zip(places, panels, strict=True):
        part = points[(points["model"] == model) & (points["device"] == device)]
        dense = part["sparsity"] == 0  # in every curve: drawn once
        looks = {mode: (part[(part["mode"] == mode) & ~dense], look) for mode, look in _MODES.items()}
        looks["dense, plain LoRA"] = (part[dense][:1], {"color": "black", "marker": "D"})
        for mode, (some, look) in looks.items():
            if some.empty:
                continue
            look = {"linestyle": "none", "markersize": 5, "elinewidth": 0.6, "alpha": 0.75, **look}
            axes.errorbar(some["samples_per_second"], some["value"], yerr=some["standard_error"], label=mode, **look)
        best = front[(front["model"] == model) & (front["device"] == device)].sort_values("samples_per_second")
        axes.step(best["samples_per_second"], best["value"], where="pre", color="black", linewidth=1.2,
                  label="Pareto front", zorder=4)  # fmt: skip
        for number, point in enumerate(best.itertuples(), 1):
            axes.annotate(number, (point.samples_per_second, point.value), xytext=(5, 5), textcoords="offset points")
        axes.margins(0.1)  # room for the numbers
        names = [
            f"{number}: {row.method} {asked_and_reached(row)} %, {row.mode}"
            for number, row in enumerate(best.itertuples(), 1)
        ]
        axes.set_title(fill(f"{model} on {device}", TITLE), fontsize="medium")
        axes.set_xlabel("\n".join(["training speed (samples/s)", *names]), fontsize="small")
        axes.set_ylabel(label, fontsize="medium")
    figure.suptitle(fill(title, TITLE), fontsize="medium", fontweight="bold")
    _add_legend(figure, panels, order=lambda text: (text not in MODES, text))
    return figure


def _add_legend(figure: Figure, panels: Iterable[Axes], order: Callable[[str], object]) -> None:
    handles = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=order)
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )


def _draw_lines(axes: Axes, points: pd.DataFrame, column: str, error: str) -> None:
    for mode, line in points.groupby("mode", sort=False):
        look = {"linewidth": 1.8, "markersize": 5, "capsize": 2.5, "elinewidth": 1, **_MODES[mode]}
        # 0.7 points apart, so that equal values and their bars stay visible beside each other.
        line = line.sort_values("reached_sparsity")
        place = 100 * line["reached_sparsity"] + 0.7 * (MODES.index(mode) - 1)
        axes.errorbar(place, line[column], yerr=line[error].astype(float), label=mode, **look)


def _draw_levels(axes: Axes, points: pd.DataFrame) -> None:
    """What the curves start from and what guessing gives."""
    dense = points[points["mode"] != NO_FINETUNE]["dense_value"].dropna()
    if len(dense):
        axes.axhline(dense.iloc[0], color="0.25", linestyle="--", linewidth=1, label="dense, fine-tuned", zorder=1)
    chance, floor = points[["chance", "majority_floor"]].iloc[0]
    axes.axhline(chance, color="0.25", linestyle=":", linewidth=1.4, label="chance", zorder=1)
    if floor > chance:  # false where a task has none
        axes.axhline(floor, color="0.25", linestyle="-.", linewidth=1, label="one answer to all", zorder=1)


def _finish_axes(panels: list[Axes], sparsities: pd.Series) -> None:
    percents = sorted(sparsities.round().astype(int).unique())
    ticks = []
    for sparsity in percents:
        if not ticks or sparsity - ticks[-1] >= 20:  # percent; closer, the numbers would touch
            ticks.append(sparsity)
    if len(ticks) == 1 and len(percents) > 1:  # a short range shows its two ends
        ticks.append(percents[-1])
    panels[0].set_xticks(ticks)  # the x axis is shared
    panels[0].set_xlim(ticks[0] - 4, sparsities.max() + 4)
    for axes in panels:
        axes.xaxis.grid(False)


def _heat_map(points: pd.DataFrame, *, title: str, label: str) -> Figure:
    modes = list(points["mode"].unique())
    methods, columns = list(points["method"].unique()), sorted(points["sparsity"].unique())
    size = (WIDTH, 1.2 + (0.45 + 0.36 * len(methods)) * len(modes))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(modes), 1, sharex=True, squeeze=False)[:, 0]
    scale = {"vmin": min(points["chance"].min(), points["value"].min()), "vmax": points["value"].max()}
    for mode, axes in zip(modes, panels, strict=True):
        part = points[points["mode"] == mode]
        table = part.pivot(index="method", columns="sparsity", values="value").reindex(index=methods, columns=columns)
        seaborn.heatmap(table, ax=axes, annot=True, fmt=".2f", cmap="cividis", cbar=False, linewidths=1,
                        annot_kws={"fontsize": "small"}, **scale)  # fmt: skip
        axes.set_title(mode, fontsize="medium")
        axes.set(xlabel="", ylabel="", facecolor="0.9")  # grey: no such run
        axes.tick_params(axis="y", rotation=0)
    panels[-1].set_xlabel(ASKED, fontsize="medium")
    figure.suptitle(fill(title, TITLE), fontsize="medium", fontweight="bold")
    figure.colorbar(panels[0].collections[0], ax=panels, label=label, fraction=0.05, aspect=25)
    return figure


def _layer_figures(layers: pd.DataFrame) -> Iterator[tuple[Plot, Drawing]]:
    """Yield the figures of the layers' sparsities, where they differ.

    The masks of a method that looks at no task are the same in all of them, and are drawn once."""
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
            for place, label in {"block": "decoder block", "projection": "kind of layer"}.items():
                sums = part.groupby(["panel", place, "sparsity"], sort=False)[["zeros", "weights"]].sum()
                reached = (100 * sums["zeros"] / sums["weights"]).astype(float).rename("reached").reset_index()
                if _same_everywhere(reached):
                    continue
                plot = layers_plot(f"{prefix}{model}_sparsity_by_{place}", setting, model, label)
                yield plot, partial(_layer_figure, reached, place, label, f"{model}{words}")


def _same_everywhere(reached: pd.DataFrame) -> bool:
    """Return whether all layers of a mask have the same sparsity, to within rounding, as scope `layer` makes them."""
    masks = reached.groupby(["panel", "sparsity"])["reached"]
    return bool(((masks.max() - masks.min()) < SAME_SPARSITY).all())


def _layer_figure(reached: pd.DataFrame, place: str, label: str, model: str) -> Figure:
    """`reached`: percent, a row a panel, place and sparsity."""
    columns, few = sorted(reached["sparsity"].unique()), place == "projection"
    rows = sorted(reached[place].unique(), key=PROJECTIONS.index if few else None)  # a checkpoint's are by the alphabet
    figure, panels = _panels([model], list(reached["panel"].unique()), 0.5 + (0.26 if few else 0.075) * len(rows))
    for (_, name), axes in panels.items():
        table = reached[reached["panel"] == name].pivot(index=place, columns="sparsity", values="reached")
        table = table.reindex(index=rows, columns=columns)
        drawn = few and len(columns) <= 5  # more numbers would touch
        seaborn.heatmap(table, ax=axes, annot=drawn, fmt=".0f", cmap="cividis", cbar=False, vmin=0, vmax=100,
                        annot_kws={"fontsize": "small"})  # fmt: skip
        axes.set_title(name, fontsize="small")
        axes.set(xlabel="", ylabel="", facecolor="0.9")  # grey: no such run
        axes.tick_params(axis="both", rotation=0)
        step = 1 if few else max(1, len(rows) // 6)
        names = [str(row) if few else f"{row:.0f}" for row in rows[::step]]
        axes.set_yticks([place + 0.5 for place in range(0, len(rows), step)], names)
        step = -(-len(columns) // 5)
        axes.set_xticks([place + 0.5 for place in range(0, len(columns), step)], columns[::step])
    figure.supxlabel(ASKED, fontsize="medium")
    figure.supylabel(label, fontsize="medium")
    figure.suptitle(
        fill(f"{model}: sparsity of the merged models by {label}", TITLE), fontsize="medium", fontweight="bold"
    )
    first = next(iter(panels.values()))
    figure.colorbar(first.collections[0], ax=[*panels.values()], label="zeros (%)", fraction=0.05, aspect=25)
    return figure


def _throughput_figures(table: pd.DataFrame) -> Iterator[tuple[Plot, Drawing]]:
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        devices = " and ".join(part["device"].unique())
        kinds = " or ".join(part["peak_memory_kind"].unique())
        title = f"{model}, {task}\ntraining on {devices}\n{_what_bars_are(part)}\npeak memory: {kinds}"
        plot = throughput_chart(f"{model}_{task}_throughput_vs_batch_size", model, task, devices)
        yield plot, partial(_throughput_figure, part, title)


def _what_bars_are(table: pd.DataFrame) -> str:
    repeats, low, high = table["n"].max(), table["tokens_per_sample"].min(), table["tokens_per_sample"].max()
    if not repeats:
        return "no batch size fitted"
    tokens = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
    bars = f"mean and 95 % interval of {repeats} repeats\n" if repeats > 1 else ""
    return f"{bars}{tokens} tokens a sample"


def _throughput_figure(table: pd.DataFrame, title: str) -> Figure:
    """Rows speed in samples and tokens and memory; the speeds of two devices never share an axis."""
    pruned = table[table["method"] != DENSE]
    columns = list((pruned if len(pruned) else table).groupby(["method", "device"], sort=False).groups)
    pruned_by = sorted(set(table["sparsity"]) - {0})
    colours = {0: "black", **dict(zip(pruned_by, seaborn.color_palette("viridis", len(pruned_by)), strict=True))}
    table = table.assign(**{f"peak_memory_{end}": table["peak_memory_bytes"] / 1e9 for end in ("mean", "low", "high")})
    figure = Figure(figsize=(WIDTH * max(1, len(columns) / 2), 8.6), layout="constrained")
    panels = figure.subplots(len(ROWS), len(columns), sharex=True, squeeze=False)
    for (method, device), column in zip(columns, panels.T, strict=True):
        part = table[table["method"].isin((method, DENSE)) & (table["device"] == device)]
        for name, axes in zip(ROWS, column, strict=True):
            _draw_batch_sizes(axes, part, name, colours)
        column[0].set_title(method if table["device"].nunique() == 1 else f"{method}\n{fill(device, 24)}",
                            fontsize="small")  # fmt: skip
    _finish_batch_axes(panels, sorted(table["batch_size"].unique()))
    lines = [fill(line, TITLE * max(1, len(columns) // 2)) for line in title.split("\n")]
    figure.suptitle("\n".join(lines), fontsize="small", fontweight="bold")
    _add_legend(figure, panels.flat, order=lambda text: (not text.startswith(DENSE), "%" not in text, text))
    figure.align_ylabels(panels[:, 0])
    return figure


def _draw_batch_sizes(axes: Axes, table: pd.DataFrame, name: str, colours: dict[int, object]) -> None:
    """A line a sparsity and mode, and a cross where memory ended: at its limit, or at the foot of a speed."""
    cells = table.groupby(["method", "sparsity", "mode"], sort=False)
    for number, ((method, sparsity, mode), line) in enumerate(cells):
        colour = colours[sparsity]
        look = {"linewidth": 1.3, "markersize": 4, "capsize": 2, "elinewidth": 0.9, **_MODES[mode], "color": colour}
        place = line["batch_size"] * 1.03 ** (number - (len(cells) - 1) / 2)  # apart, so that equal values stay visible
        mean, low, high = (line[f"{name}_{end}"].astype(float) for end in ("mean", "low", "high"))
        label = f"{DENSE}, plain LoRA" if method == DENSE else f"{sparsity} %, {mode}"
        axes.errorbar(place, mean, yerr=[mean - low, high - mean], label=label, **look)
        ended = line["status"] == OUT_OF_MEMORY
        foot = line["memory_limit_bytes"].astype(float) / 1e9 if name == "peak_memory" else line["batch_size"] * 0
        cross = {"marker": "x", "s": 40, "linewidths": 1.8, "clip_on": False, "zorder": 5}
        axes.scatter(place[ended], foot[ended], color=colour, label="out of memory" if ended.any() else None, **cross)
    if name == "peak_memory":
        limits = table[["memory_limit_bytes", "memory_limit_kind"]].dropna()
        for limit, kind in sorted(set(limits.itertuples(index=False, name=None))):
            axes.axhline(
                limit / 1e9, color="0.25", linestyle=":", linewidth=1.4, label=f"memory limit, {kind}", zorder=1
            )


def _finish_batch_axes(panels: np.ndarray, sizes: list[int]) -> None:
    for axes in panels.flat:
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # a ratio of speeds is read off the axis
        axes.xaxis.grid(False)
    for axes, label in zip(panels[:, 0], ROWS.values(), strict=True):
        axes.set_ylabel(label, fontsize="small")
    panels[0, 0].set_xscale("log", base=2)  # the x axis is shared
    panels[0, 0].set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    panels[0, 0].set_xticks(sizes, sizes, minor=False)
    for axes in panels[-1]:
        axes.set_xlabel("batch size\n(samples a forward pass)", fontsize="small")
