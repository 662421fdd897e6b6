"""EXPERIMENTS.md: the study written up from its numbers: setting, results, findings, limits, how to reproduce.

Findings state numbers only: each is a mean over the seeds or the difference of two such means, and none claims
significance.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sparseft.analysis.chain import short
from sparseft.analysis.markdown import markdown_table
from sparseft.analysis.records import NO_FINETUNE, Evaluation, Record
from sparseft.analysis.tables import PLAIN_LORA
from sparseft.files import atomic_file
from sparseft.grid import MODES

CONTROL = "random"  # the method that every other one is compared with

_RESULTS = """## Results

A value is the mean over the seeds ± the standard error over the examples; beside a yes/no task's stand the shares of the
no and of the yes questions that were answered rightly: 1 and 0 is a model that always says no. Above chance means above
what guessing scores, or one and the same answer to all questions where that scores more. The sentences name at most four
sparsities; sparsity_vs_performance.csv has them all.
"""

_REPRODUCE = """## How to reproduce

```
snakemake results/analysis/summary.csv --cores all
```

This page, the tables and the plots alone, from the run folders that are there:

```
python workflow/scripts/analyze_results.py --results_dir results/runs --output_dir results/analysis --plot
```
"""


def write_experiments(
    path: Path, records: list[Record], *, cells: pd.DataFrame, points: pd.DataFrame, left_out: int, plots: list[str]
) -> None:
    """Write the page; `plots` are the names of the figures under plots/ that it shows."""
    results = [_task_section(task, cells, points) for task in cells["task"].unique()]
    sections = [
        "# Experiments\n",
        _setting(records, cells),
        _RESULTS,
        *results,
        "## Figures\n\n" + "\n".join(f"![{Path(name).stem}](plots/{name})\n" for name in plots) if plots else "",
        _limits(records, left_out),
        _REPRODUCE,
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def results_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Value ± standard error as text: a row a model, task, metric, method and sparsity, a column a mode."""
    rows = ["model", "task", "metric", "method", "sparsity"]
    text = [_value(cell) for cell in cells.itertuples()]
    wide = cells.assign(text=text).pivot(index=rows, columns="mode", values="text")
    modes = [mode for mode in MODES if mode in wide]
    order = list(cells[rows].drop_duplicates().itertuples(index=False, name=None))  # pivot sorts by the alphabet
    return wide.loc[order, modes].fillna("-").rename_axis(columns=None).reset_index()


def findings(points: pd.DataFrame) -> list[str]:
    """Sentences about one model on one task, computed from the points of its curves."""
    return [*_dense(points), *_against_control(points), *_recovered(points), *_between_modes(points)]


def _setting(records: list[Record], cells: pd.DataFrame) -> str:
    trained = [record.train for record in records if record.train]
    evaluations = [record.evaluation for record in records]
    merges = [(record.run.model, short(record.merge.inputs.model)) for record in records if record.merge]
    lines = {
        "models (digest of the weights)": _each(f"{name} ({digest})" for name, digest in merges),
        "methods": ", ".join(cells["method"].unique()),
        "sparsity, percent of the prunable weights": _each(cells["sparsity"]),
        "modes": ", ".join(mode for mode in MODES if mode in set(cells["mode"])),
        "seeds": _each(record.run.seed for record in records),
        "runs": len(records),
        "training": _each(f"{train.backend} in {train.dtype} on {train.device}" for train in trained),
        "steps x batch size": _each(f"{train.steps} x {train.batch_size}" for train in trained),
        "gradient of sparse_to_sparse": _each(train.gradient for train in trained),
        "trainable parameters": _each(train.trainable_parameters for train in trained),
        "versions": _each(f"{name} {version}" for train in trained for name, version in train.versions.items()),
        "evaluation": _each(f"{evaluation.harness} on {evaluation.device}" for evaluation in evaluations),
    }
    text = "".join(f"- {name}: {value}\n" for name, value in lines.items() if value)
    tasks = sorted(
        {(each.task, each.metric, f"{each.chance:.2f}", _floor(each), each.examples) for each in evaluations}
    )
    header = ["task", "metric", "chance", "one answer to all", "validation examples"]
    return f"## Setting\n\n{text}\n" + markdown_table(header, tasks)


def _floor(evaluation: Evaluation) -> str:
    floor = evaluation.metrics.get("majority_floor")
    return "-" if floor is None else f"{floor:.3f}"


def _task_section(task: str, cells: pd.DataFrame, points: pd.DataFrame) -> str:
    parts = []
    for (model, metric), part in cells[cells["task"] == task].groupby(["model", "metric"], sort=False):
        table = results_table(part).drop(columns=["model", "task", "metric"])
        here = points[(points["task"] == task) & (points["model"] == model) & (points["metric"] == metric)]
        sentences = "".join(f"- {sentence}\n" for sentence in findings(here))
        header = ["method", "sparsity, %", *table.columns[2:]]
        parts.append(f"{model}, {metric}:\n\n{markdown_table(header, table.to_numpy())}\n{sentences}")
    return f"### {task}\n\n" + "\n".join(parts)


def _value(cell: tuple) -> str:
    text = f"{cell.value_mean:.3f} ± {cell.standard_error:.3f}"
    for name, recall in (("no", cell.recall_no), ("yes", cell.recall_yes)):
        text += f" {name} {recall:.2f}" if pd.notna(recall) else ""
    return text + (" (not valid)" if cell.n_validated < cell.n else "")


def _dense(points: pd.DataFrame) -> Iterable[str]:
    start = points[points["sparsity"] == 0].drop_duplicates("mode").set_index("mode")
    for mode, words in {NO_FINETUNE: "without fine-tuning", PLAIN_LORA: "with plain LoRA"}.items():
        if mode in start.index:
            cell = start.loc[mode]
            guess, named = cell.chance, f"chance ({cell.chance:.2f})"
            if cell.majority_floor > guess:  # false where a task has none
                guess, named = cell.majority_floor, f"one answer to all ({cell.majority_floor:.3f})"
            error = cell.standard_error
            above = f", {(cell.value - guess) / error:+.1f} standard errors from {named}" if error else ""
            yield f"The dense model {words}: {cell.value:.3f} ± {error:.3f}{above}."


def _against_control(points: pd.DataFrame) -> Iterable[str]:
    for mode, part in _pruned(points).groupby("mode", sort=False):
        wide = part.pivot(index="sparsity", columns="method", values="value")
        methods = [method for method in part["method"].unique() if method != CONTROL and CONTROL in wide]
        yield from _sentence(
            f"In mode {mode}", {f"{method} minus {CONTROL}": wide[method] - wide[CONTROL] for method in methods}
        )


def _recovered(points: pd.DataFrame) -> Iterable[str]:
    known = _pruned(points[points["recovered_share"].notna()])
    for mode, part in known.groupby("mode", sort=False):
        methods = [f"{method} {_won_back(rows)}" for method, rows in part.groupby("method", sort=False)]
        yield f"Of the distance between the pruned model and the fine-tuned dense one, {mode} closes: {'; '.join(methods)}."


def _won_back(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.value - row.untuned_value:+.3f} of {row.dense_value - row.untuned_value:.3f} at {row.sparsity} %"
        for row in rows.itertuples()
    )


def _between_modes(points: pd.DataFrame) -> Iterable[str]:
    masked, free = "sparse_to_sparse", "sparse_to_dense"
    differences = {}
    for method, part in _pruned(points).groupby("method", sort=False):
        wide = part.pivot(index="sparsity", columns="mode", values="value")
        if masked in wide and free in wide:
            differences[method] = wide[masked] - wide[free]
    yield from _sentence(f"{masked} minus {free}", differences)


def _pruned(points: pd.DataFrame) -> pd.DataFrame:
    """At most four sparsities, evenly spread and with the largest: a sentence of ten numbers is not read."""
    sparsities = sorted(set(points["sparsity"]) - {0}, reverse=True)
    return points[points["sparsity"].isin(sparsities[:: -(-len(sparsities) // 4) or 1])]


def _sentence(head: str, differences: dict[str, pd.Series]) -> Iterable[str]:
    """One sentence of what is known of `differences`, by name, over sparsities; none where nothing is."""
    parts = [
        f"{name} " + ", ".join(f"{value:+.3f} at {sparsity} %" for sparsity, value in values.dropna().items())
        for name, values in differences.items()
        if values.notna().any()
    ]
    if parts:
        yield f"{head}: {'; '.join(parts)}."


def _limits(records: list[Record], left_out: int) -> str:
    devices = {record.evaluation.device for record in records} | {each.train.device for each in records if each.train}
    examples = _each(record.evaluation.examples for record in records)
    failed = sum(not record.validation.passed for record in records)
    limits = [
        f"Seeds: {len({record.run.seed for record in records})}. Standard errors are over the validation examples"
        f" ({examples}), not over seeds; where every outcome is the same, as at 1.000, they are 0 and say nothing.",
        "Differences carry no significance test.",
        f"Devices: {'; '.join(sorted(devices))}. Speeds belong to the training device and are no estimate"
        " of another; jobs that ran side by side share its cores and its memory bandwidth.",
    ]
    if not any("cs-3" in device.lower() or "cerebras" in device.lower() for device in devices):
        limits.append("Nothing here has run on a Cerebras CS-3.")
    shared = {f"{each.evaluation.task} {each.evaluation.train_overlap}" for each in records
              if each.evaluation.train_overlap}  # fmt: skip
    if shared:
        limits.append(f"Training examples with the prompt of a validation example: {_each(shared)}.")
    if failed:
        limits.append(f"{failed} of {len(records)} runs failed their validation; correctness_memo.md names them.")
    if left_out:
        limits.append(f"{left_out} runs are missing or could not be read and are in no table; missing.csv names them.")
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _each(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
