"""Describe each figure of plots.py in words: its caption, and its text for readers who cannot see it."""

from dataclasses import dataclass

import pandas as pd

from sparseft.analysis.headlines import is_loss
from sparseft.study.grid import NO_FINETUNE
from sparseft.tasks import BY_NAME

LOWER = " Lower is better."


@dataclass(frozen=True)
class Plot:
    """Describe a figure: where it belongs, and what it shows. `model` and `task` are empty if it shows several."""

    name: str  # the name of its files, without the ending
    kind: str
    setting: str
    model: str
    task: str
    alt: str
    caption: str


def line_chart(name: str, kind: str, points: pd.DataFrame, words: str, caption: str) -> Plot:
    """Describe a line chart of the points; `words` say what its lines show."""
    setting, task = points[["setting", "task"]].iloc[0]
    methods = ", ".join(points["method"].unique())
    modes = ", ".join(points["mode"].unique())
    models = ", ".join(points["model"].unique())
    alt = (
        f"Line chart: {words} of {models} on {task}, over sparsity. A panel per method: {methods}. A line per mode: {modes}."
        " The tables have the same values."
    )
    return Plot(name, kind, setting, "", task, alt, caption)


def heat_map(name: str, points: pd.DataFrame, label: str) -> Plot:
    """Describe the heat map of one model."""
    setting, model, task, metric = points[["setting", "model", "task", "metric"]].iloc[0]
    alt = f"Heat map: {label} of {model} on {task} by method and sparsity, a panel per mode. The tables have the same values."
    caption = (
        f"Mean {label} of {model} by method and sparsity, a panel per mode. A grey cell has no run.{_lower(metric)}"
    )
    return Plot(name, "heatmap", setting, model, task, alt, caption)


def speed_chart(name: str, points: pd.DataFrame, label: str) -> Plot:
    """Describe the figure of value against speed."""
    setting, task, metric = points[["setting", "task", "metric"]].iloc[0]
    alt = f"Scatter chart: {label} on {task} against training speed. The tables have the same values."
    caption = (
        f"{_first_upper(label)} against training speed, a panel per model and way of training, whose speeds can be"
        f" compared. The numbered points are the Pareto front: no other point is better in one and as good in the other.{_lower(metric)}"
    )
    return Plot(name, "vs_speed", setting, "", task, alt, caption)


def compute_chart(name: str, table: pd.DataFrame, label: str) -> Plot:
    """Describe the figure of the trainings against their compute."""
    setting, task, metric = table[["setting", "task", "metric"]].iloc[0]
    alt = f"Chart: {label} on the selection rows of {task} against training compute. budget.csv has the values."
    caption = (
        f"{_first_upper(label)} on the selection rows of {task} against the tokens that a training reads. A point is a training,"
        f" mean over its seeds, with one standard error. A ring marks the chosen one. Every other figure shows the validation"
        f" rows.{_lower(metric)}"
    )
    return Plot(name, "vs_compute", setting, "", task, alt, caption)


def layers_plot(name: str, setting: str, model: str, label: str) -> Plot:
    """Describe the figure of the layers' sparsities."""
    alt = f"Heat map: share of zeros in the merged models of {model}, by {label} and sparsity. layer_sparsity.csv has the values."
    caption = f"Share of zeros in the merged models of {model} by {label}, a panel per method."
    return Plot(name, "layers", setting, model, "", alt, caption)


def throughput_chart(name: str, model: str, task: str, devices: str) -> Plot:
    """Describe the figure of speed and memory against the batch size."""
    alt = f"Line chart: training speed and peak memory of {model} on {task} against the batch size."
    caption = f"Training speed and peak memory of {model} on {task} against the batch size, measured on {devices}."
    return Plot(name, "throughput", "", model, task, alt, caption)


def value_caption(points: pd.DataFrame, label: str) -> str:
    """Return the caption of the figure of a task's metric over sparsity."""
    task, metric = points[["task", "metric"]].iloc[0]
    sentences = [
        f"{_first_upper(label)} on {task} against the sparsity that the masks reached.",
        "Bars are one standard error, over the validation examples.",
        *_levels(points),
    ]
    return f"{' '.join(sentences)}{_lower(metric)}{toy(task)}"


def _levels(points: pd.DataFrame) -> list[str]:
    """Return sentences on the horizontal lines in the figure of a value."""
    levels = ["The dotted line is what guessing scores."] if points["chance"].notna().any() else []
    if (points["majority_floor"] > points["chance"]).any():
        levels.append("The dash-dotted line is what one answer to all questions scores.")
    if points[points["mode"] != NO_FINETUNE]["dense_value"].notna().any():
        levels.insert(0, "The dashed line is the dense model, fine-tuned with plain LoRA.")
    return levels


def _lower(metric: str) -> str:
    """Return the sentence that says that less is better; empty if more is."""
    return LOWER if is_loss(metric) else ""


def toy(task: str) -> str:
    """Return a sentence that says that a task is a toy task; empty for other tasks."""
    is_generated = task in BY_NAME and BY_NAME[task].generate
    return f" {task} is a toy task that SparseFT generates." if is_generated else ""


def _first_upper(text: str) -> str:
    """Return a text with an upper-case first letter."""
    return text[:1].upper() + text[1:]
