"""EXPERIMENTS.md: the study written up from its numbers: setting, results, findings, limits, how to reproduce.

A finding gives a difference its number only where it is significant after Holm's correction (comparisons.py); the rest
it names as not significant, which is not the same as equal.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd

from sparseft.analysis.chain import short
from sparseft.analysis.comparisons import LOSS, TOLD
from sparseft.analysis.markdown import markdown_table
from sparseft.analysis.records import Evaluation, Record
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.tables import LINE, PLAIN_LORA
from sparseft.files import atomic_file
from sparseft.grid import MODES, NO_FINETUNE, WAFER

_HEADS = {  # by comparison; dense is told of the losses alone, for the values have verdicts
    "dense": "{mode} minus dense",
    "random": "In mode {mode}, minus random pruning",
    "untuned": "{mode} minus no fine-tuning",
    "modes": "{mode} minus sparse_to_dense",
}
_FRONTS = {"best_for_sparsity": "sparsity", "best_for_speed": "training speed", "largest_within": "largest within"}
_RESULTS = """## Results

A value is the mean over the seeds ± the standard error over the examples; beside a yes/no task's stand the shares of the
no and of the yes questions that were answered rightly: 1 and 0 is a model that always says no. Above chance means above
what guessing scores, or one and the same answer to all questions where that scores more.

Differences are over the same examples; in brackets stand the ends of their 95 % confidence interval (paired bootstrap over
the examples). They have a number where McNemar's exact test, or Student's paired t test of the losses (nats per answer
token), is significant at 5 % after Holm's correction, over all comparisons of that kind on the model and task, in every
seed: comparisons.csv has all of them. *Not significant* means that these examples cannot tell, or that a seed has no
counterpart, not that there is no difference. The sentences name at most four sparsities.

No regression beyond a tolerance means that the whole interval of the difference to dense lies above it, at this sparsity
and at every smaller one. Best in value for its sparsity (or training speed) means that no other point is better in one and
as good in the other; these are means, and neighbours may differ by chance.
"""

_REPRODUCE = """## How to reproduce

Type each command in the folder in which this page was written, with the project's environment active.

{study}
This command writes this page, the tables and the plots again, into a new folder, from the runs that are there:

```
{analysis}
```
"""
_STUDY = """The file `{configuration}` (sha256 {digest}) has every key of the study's configuration. With it this command makes
what is missing of the study, and nothing if nothing is:

```
{study}
```

To make the whole study anew, copy that file into a new folder and type there:

```
{new_study}
```
"""
_NO_STUDY = """The analysis was not told which configuration the runs were made with (`--configuration`), so that this page cannot say
which command makes them again.
"""


@dataclass(frozen=True)
class Study:
    """The tables that the page is written from: cells, points of the curves, comparisons and best trade-offs."""

    cells: pd.DataFrame
    points: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    tolerance: float

    def of(self, **keys: str) -> Self:
        """The rows that have these keys."""
        tables = {name: table for name, table in vars(self).items() if isinstance(table, pd.DataFrame)}
        for name, value in keys.items():
            tables = {which: table[table[name] == value] for which, table in tables.items()}
        return replace(self, **tables)


def write_experiments(
    path: Path,
    records: list[Record],
    study: Study,
    *,
    left_out: int,
    plots: list[str],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
) -> None:
    """Write the page. `plots` are the names of the figures under plots/ that it shows; `reproduction` has the commands that
    make its results again."""
    cells = study.cells
    results = [_task_section(task, study) for task in cells["task"].unique()]
    sections = [
        "# Experiments\n",
        _setting(records, cells),
        _RESULTS,
        *results,
        "## Figures\n\n" + "\n".join(f"![{Path(name).stem}](plots/{name})\n" for name in plots) if plots else "",
        _limits(records, study, left_out),
        _reproduce(records, reproduction),
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


def findings(study: Study) -> list[str]:
    """Sentences about one model on one task."""
    values = study.comparisons[study.comparisons["comparison"] != "dense"]
    losses = study.comparisons.drop(columns=[*TOLD, "significant"]).rename(columns=lambda name: name.removeprefix(LOSS))
    return [
        *_dense(study.points),
        *_verdicts(study),
        *_compared(values),
        *(f"Loss, {sentence}" for sentence in _compared(losses)),
        *_fronts(study.best),
    ]


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


def _task_section(task: str, study: Study) -> str:
    parts = []
    for model, metric in study.of(task=task).cells[["model", "metric"]].drop_duplicates().itertuples(index=False):
        here = study.of(task=task, model=model, metric=metric)
        table = results_table(here.cells).drop(columns=["model", "task", "metric"])
        sentences = "".join(f"- {sentence}\n" for sentence in findings(here))
        header = ["method", "sparsity, %", *table.columns[2:]]
        parts.append(f"{model}, {metric}:\n\n{markdown_table(header, table.to_numpy())}\n{sentences}")
        parts.append(f"Best trade-offs of {model}:\n\n{_best_table(here.best)}")
    return f"### {task}\n\n" + "\n".join(parts)


def _best_table(best: pd.DataFrame) -> str:
    rows = []
    for row in best.itertuples():
        difference = "-" if pd.isna(row.difference_low) else _difference(row)
        respects = ", ".join(words for name, words in _FRONTS.items() if getattr(row, name))
        rows.append([row.method, row.sparsity, row.mode, f"{row.value:.3f}", difference, row.verdict or "-", respects])
    return markdown_table(["method", "sparsity, %", "mode", "value", "minus dense", "verdict", "best for"], rows)


def _value(cell: tuple) -> str:
    text = f"{cell.value_mean:.3f} ± {cell.standard_error:.3f}"
    for name, recall in (("no", cell.recall_no), ("yes", cell.recall_yes)):
        text += f" {name} {recall:.2f}" if pd.notna(recall) else ""
    return text + (" (at fault)" if cell.n_sound < cell.n else "")


def _dense(points: pd.DataFrame) -> Iterable[str]:
    start = points[points["sparsity"] == 0]
    mode = start["mode"].where(start["mode"] == NO_FINETUNE, PLAIN_LORA)  # every trained curve starts from plain LoRA
    start = start.assign(mode=mode).drop_duplicates("mode").set_index("mode")
    for mode, words in {NO_FINETUNE: "without fine-tuning", PLAIN_LORA: "with plain LoRA"}.items():
        if mode in start.index:
            cell = start.loc[mode]
            guess, named = cell.chance, f"chance ({cell.chance:.2f})"
            if cell.majority_floor > guess:  # false where a task has none
                guess, named = cell.majority_floor, f"one answer to all ({cell.majority_floor:.3f})"
            error = cell.standard_error
            above = f", {(cell.value - guess) / error:+.1f} standard errors from {named}" if error else ""
            yield f"The dense model {words}: {cell.value:.3f} ± {error:.3f}{above}."


def _verdicts(study: Study) -> Iterable[str]:
    """How far each curve can be pruned."""
    judged = study.points[study.points["verdict"].notna()]
    largest = study.best[study.best["largest_within"]]
    for mode, part in judged.groupby("mode", sort=False):
        found = largest[largest["mode"] == mode]
        words = [f"{row.method} up to {row.sparsity} % ({_difference(row)})" for row in found.itertuples()]
        rest = [method for method in part["method"].unique() if method not in set(found["method"])]
        words += [f"not shown at the smallest sparsity for {', '.join(rest)}"] if rest else []
        yield f"No regression beyond {study.tolerance:g} against dense in mode {mode}: {'; '.join(words)}."


def _compared(comparisons: pd.DataFrame) -> Iterable[str]:
    """The significant differences with their numbers, the others by name alone."""
    few = comparisons[comparisons["sparsity"].isin(_few(comparisons["sparsity"]))]
    found: dict[tuple[str, str], dict[bool, dict[str, list]]] = {}
    for row in few.itertuples():
        alike = found.setdefault((row.comparison, row.mode), {True: {}, False: {}})
        alike[row.significant].setdefault(row.method, []).append(row)
    for (kind, mode), alike in found.items():
        parts = [f"{method} " + ", ".join(f"{_difference(row)} at {row.sparsity} %" for row in rows)
                 for method, rows in alike[True].items()]  # fmt: skip
        untold = [
            f"{method} at {', '.join(str(row.sparsity) for row in rows)} %" for method, rows in alike[False].items()
        ]
        parts += [f"not significant: {', '.join(untold)}"] if untold else []
        yield f"{_HEADS[kind].format(mode=mode)}: {'; '.join(parts)}."


def _fronts(best: pd.DataFrame) -> Iterable[str]:
    for name in ("best_for_sparsity", "best_for_speed"):
        rows = best[best[name]]
        for device in rows["device"].unique() if name == "best_for_speed" else [None]:  # speeds of one device
            alike = rows if device is None else rows[rows["device"] == device]
            points = [f"{row.method} {row.sparsity} % {row.mode} {row.value:.3f}" for row in alike.itertuples()]
            yield f"Best in value for its {_FRONTS[name]}{f' on {device}' if device else ''}: {'; '.join(points)}."


def _difference(row: tuple) -> str:
    mean = row.difference if hasattr(row, "difference") else row.difference_to_dense
    return f"{mean:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"


def _few(sparsities: pd.Series) -> list[int]:
    """At most four, evenly spread and with the largest: a sentence of ten numbers is not read."""
    found = sorted(set(sparsities) - {0}, reverse=True)
    return found[:: -(-len(found) // 4) or 1]


def _limits(records: list[Record], study: Study, left_out: int) -> str:
    devices = {record.evaluation.device for record in records} | {each.train.device for each in records if each.train}
    examples = _each(record.evaluation.examples for record in records)

    limits = [
        f"Seeds: {len({record.run.seed for record in records})}. Standard errors are over the validation examples"
        f" ({examples}), not over seeds; where every outcome is the same, as at 1.000, they are 0 and say nothing.",
        "Intervals and tests of differences are over the examples, for these trained models; training them again from"
        " another seed moves the differences further.",
        f"Devices: {'; '.join(sorted(devices))}. Speeds belong to the training device and are no estimate"
        " of another; jobs that ran side by side share its cores and its memory bandwidth.",
    ]
    if WAFER not in devices:
        limits.append("Nothing here has run on a Cerebras CS-3.")
    trained = study.points[study.points["device"].notna()]
    mixed = [" ".join(line) for line, rows in trained.groupby(LINE, sort=False) if rows["device"].nunique() > 1]
    if mixed:
        limits.append(f"Curves of several devices, whose speeds are drawn and judged apart: {', '.join(mixed)}.")
    shared = {f"{each.evaluation.task} {each.evaluation.train_overlap}" for each in records
              if each.evaluation.train_overlap}  # fmt: skip
    if shared:
        limits.append(f"Training examples with the prompt of a validation example: {_each(shared)}.")
    if failed := (study.cells["n"] - study.cells["n_sound"]).sum():
        limits.append(f"{failed} of {len(records)} runs have a fault; correctness_memo.md names it.")
    if left_out:
        limits.append(f"{left_out} runs are missing or could not be read and are in no table; missing.csv names them.")
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _reproduce(records: list[Record], reproduction: Reproduction) -> str:
    """Return the section with the commands that make the results again."""
    return _REPRODUCE.format(study=_study_again(records, reproduction), analysis=reproduction.analysis())


def _study_again(records: list[Record], reproduction: Reproduction) -> str:
    """Return how to make the study again, and which runs of the page are not the configuration's."""
    if not reproduction.configuration:
        return _NO_STUDY
    text = _STUDY.format(
        configuration=reproduction.configuration,
        digest=reproduction.digest,
        study=reproduction.study(),
        new_study=reproduction.new_study(),
    )
    others = reproduction.others(record.run.id for record in records)
    if others:
        text += (
            f"\n{len(others)} of the {len(records)} runs on this page are not in the grid of that configuration, and these"
            f" commands do not make them: {', '.join(others)}.\n"
        )
    return text


def _each(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
