"""EXPERIMENTS.md: what a study shows, its tables, figures and limits, its settings, and how to make it again."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sparseft.analysis.chain import short
from sparseft.analysis.derived import Derived
from sparseft.analysis.findings import FRONTS, difference, explain_verdict, headline, percents, value_findings
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import bullets, markdown_table
from sparseft.analysis.records import EvaluationRecord, Record, TrainingRecord
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.tables import LINE, PLAIN_LORA, asked_and_reached
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import DENSE, MODES, NO_FINETUNE, TRAINED_MODES, WAFER
from sparseft.tasks import RECALLS
from sparseft.tasks.metrics import MAJORITY_FLOOR

NO_SENTENCE = "No model and sparsity here is without a fault, so nothing is said. correctness_memo.md names the faults."
_HOW_TO_READ = """## How to read the numbers

- A value is the mean over the seeds ± its standard error over the examples. A yes/no task also shows the shares of right
  answers to the no and to the yes questions.
- A difference is over the same examples. Brackets hold its 95 % confidence interval, by a paired bootstrap over the examples.
- A difference is significant if McNemar's exact test says so at 5 % after Holm's correction, with one sign in every seed.
  Holm's correction is over all comparisons of one kind on the model and task. *Not significant* does not mean equal.
- A loss is excluded if the whole interval lies above the tolerance, over the examples and over the seeds. *Largest within* is the
  largest sparsity up to which this holds everywhere on a curve. Nothing is said of a dense model that only guesses.
- *Best for sparsity* (or training speed): no other point is as good in both value and this, and better in one. These are
  means, so neighbours may differ by chance.
- Sparsity is the one that was asked for. Parentheses hold the one that the masks reached, where it differs.

comparisons.csv has every comparison, also of the losses.
"""

_REPRODUCE = """## How to reproduce

Activate the project's environment. Type each command in the folder in which this page was written.

{study}
This command writes this page, the tables and the plots again, from the runs that are there, into a new folder:

```
{analysis}
```
"""
_STUDY = """The file `{configuration}` (sha256 {digest}) has every key of the study's configuration. This command makes what is
missing of the study:

```
{study}
```

To make the whole study anew, copy that file into a new folder and type there:

```
{new_study}
```
"""
_NO_STUDY = """The analysis was given no `--configuration`, so this page cannot say which command makes the runs again.
"""


def write_experiments(
    path: Path,
    judged: list[Judged],
    derived: Derived,
    tolerance: float,
    *,
    left_out: int,
    plots: list[str],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
) -> None:
    """Write the page. `plots` are the names of the figures under plots/ that it shows; `reproduction` has the commands that
    make its results again."""
    records = [each.record for each in judged if each.outside is None]
    parts = places(derived)
    figures = "\n".join(f"![{Path(name).stem}](plots/{name})\n" for name in plots)
    sections = [
        "# Experiments\n\n## Results\n",
        *(_results(here, tolerance) for here in parts),
        "## Figures\n\n" + figures if plots else "",
        "## Findings in detail\n",
        *(_details(here, tolerance) for here in parts),
        _HOW_TO_READ,
        _limits(records, judged, derived, left_out),
        _setting(records, derived.cells),
        _reproduce(reproduction),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def places(derived: Derived) -> list[Derived]:
    """Return the tables of each task, setting, model and metric by themselves, task after task."""
    keys = ["task", "setting", "model", "metric"]
    found = derived.cells[keys].drop_duplicates()
    return [
        derived.of(**dict(zip(keys, place, strict=True)))
        for task in found["task"].unique()
        for place in found[found["task"] == task].itertuples(index=False)
    ]


def title(here: Derived) -> str:
    """Return the name of one model, task, metric and setting."""
    cell = here.cells.iloc[0]
    return f"{cell['model']}, {cell['task']}, {cell['metric']}" + (
        f", with {cell['setting']}" if cell["setting"] else ""
    )


def results_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return value ± standard error as text, for one model, task, metric and setting: a row per method and sparsity, a
    column per mode.

    The dense run with plain LoRA belongs to the curves of every mode that trains, so its value stands in each of their
    columns."""
    rows = ["method", "sparsity, %"]
    text = [_value(cell) for cell in cells.itertuples()]
    table = cells.assign(text=text, **{"sparsity, %": percents(cells)})
    order = table[rows].drop_duplicates()  # pivot sorts by the alphabet
    wide = table.pivot(index=rows, columns="mode", values="text")
    trained = set(cells.loc[cells["sparsity"] > 0, "mode"]) & set(TRAINED_MODES) or {PLAIN_LORA}
    modes = [mode for mode in MODES if mode in wide and mode in {NO_FINETUNE, *trained}]
    if PLAIN_LORA in wide:
        is_dense = wide.index.get_level_values("method") == DENSE
        for mode in trained:
            wide.loc[is_dense, mode] = wide.loc[is_dense, PLAIN_LORA]
    ordered = wide.loc[list(order.itertuples(index=False, name=None)), modes].fillna("-")
    return ordered.rename_axis(columns=None).reset_index()


def _setting(records: list[Record], cells: pd.DataFrame) -> str:
    trained = [record.train for record in records if record.train]
    evaluations = [record.evaluation for record in records]
    masks = [record.validation.mask for record in records]
    bases = [(record.run.model, short(record.merge.inputs.model)) for record in records if record.merge]
    lines = {
        "models (digest of the base)": _each(f"{name} ({digest})" for name, digest in bases),
        "methods": ", ".join(cells["method"].unique()),
        "sparsity asked for, percent of the prunable weights": _each(cells["sparsity"]),
        "masks": _each(_mask_settings(record) for record in records),
        "calibration examples": _each(mask.calibration_examples for mask in masks if mask.calibration_examples),
        "modes": ", ".join(mode for mode in MODES if mode in set(cells["mode"])),
        "seeds": _each(record.run.seed for record in records),
        "runs": len(records),
        "training": _each(f"{train.backend} in {train.dtype} on {train.device}" for train in trained),
        "training examples": _each(train.train_examples for train in trained),
        "steps x batch size": _each(_steps(train) for train in trained),
        "learning rate": _each(train.learning_rate for train in trained),
        "warm-up, share of the steps": _each(train.warmup_fraction for train in trained),
        "weight decay": _each(train.weight_decay for train in trained),
        "LoRA rank, alpha, dropout": _each(
            f"{train.lora_r}, {train.lora_alpha:g}, {train.lora_dropout:g}" for train in trained
        ),
        "LoRA targets": _each(" ".join(train.lora_targets) or "all prunable layers" for train in trained),
        "gradient of sparse_to_sparse": _each(train.gradient for train in trained),
        "trainable parameters": _each(train.trainable_parameters for train in trained),
        "versions": _each(f"{name} {version}" for train in trained for name, version in train.versions.items()),
        "evaluation": _each(f"{each.harness} in {each.dtype} on {each.device}" for each in evaluations),
    }
    text = "".join(f"- {name}: {value}\n" for name, value in lines.items() if value)
    tasks = sorted(
        {(each.task, each.metric, f"{each.chance:.2f}", _floor(each), each.examples) for each in evaluations}
    )
    header = ["task", "metric", "chance", "one answer to all", "validation examples"]
    return f"## Settings\n\n{text}\n" + markdown_table(header, tasks)


def _steps(train: TrainingRecord) -> str:
    """Return steps x batch size, and how many of the steps changed anything: the first of a warm-up has learning rate 0."""
    return f"{train.steps} x {train.batch_size}" + (
        "" if train.updates == train.steps else f" ({train.updates} with a learning rate above 0)"
    )


def _mask_settings(record: Record) -> str:
    """Return the settings of a run's mask as a text, such as "unstructured: scope layer"."""
    chosen = {
        name: value
        for name, value in record.validation.mask.settings.items()
        if value is not None and not name.startswith(("calibration", "accumulated"))
    }
    return f"{record.run.method}: " + " ".join(f"{name} {value}" for name, value in chosen.items())


def _floor(evaluation: EvaluationRecord) -> str:
    floor = evaluation.metrics.get(MAJORITY_FLOOR.name)
    return "-" if floor is None else f"{floor:.3f}"


def _results(here: Derived, tolerance: float) -> str:
    """Return the headline and the table of one model, task, metric and setting."""
    sentences = headline(here, tolerance) or [NO_SENTENCE]
    table = results_table(here.cells)
    return f"### {title(here)}\n\n{bullets(sentences)}\n{markdown_table(list(table), table.to_numpy())}"


def _details(here: Derived, tolerance: float) -> str:
    """Return the dense model's level, how far each curve can be pruned, every comparison, and the points worth having."""
    sentences = bullets(value_findings(here, tolerance))
    best = f"The points worth having:\n\n{_best_table(here, tolerance)}" if len(here.best) else ""
    return f"### {title(here)}\n\n{sentences}\n{best}"


def _best_table(here: Derived, tolerance: float) -> str:
    """Return the points worth having, with their verdicts in words."""
    examples = here.cells["examples"].max()
    rows = []
    for row in here.best.itertuples():
        to_dense = "-" if pd.isna(row.difference_low) else difference(row)
        respects = ", ".join(words for name, words in FRONTS.items() if getattr(row, name))
        verdict = explain_verdict(row.verdict, row.difference_to_dense, examples)
        rows.append([row.method, asked_and_reached(row), row.mode, f"{row.value:.3f}", to_dense, verdict, respects])
    return markdown_table(
        ["method", "sparsity, %", "mode", "value", "minus dense", f"a loss above {tolerance:g}", "best for"], rows
    )


def _value(cell: tuple) -> str:
    text = f"{cell.value_mean:.3f} ± {cell.standard_error:.3f}"
    for answer, column in RECALLS.items():
        recall = getattr(cell, column)
        text += f" {answer} {recall:.2f}" if pd.notna(recall) else ""
    return text + (" (at fault)" if cell.n_sound < cell.n else "")


def _limits(records: list[Record], judged: list[Judged], derived: Derived, left_out: int) -> str:
    """Return the section on what the results do not show."""
    evaluations = [record.evaluation for record in records]
    limits = [
        *_sampling_limits(records),
        *_device_limits(records, derived),
        *_example_limits(evaluations),
        *_run_limits(judged),
    ]
    if derived.cells["setting"].any():
        limits.append("The runs have several settings. Each setting has its own rows in every table.")
    if left_out:
        limits.append(f"{_runs(left_out)} missing or unreadable and in no table; missing.csv gives the reasons.")
    return f"## Limits\n\n{bullets(limits)}"


def _sampling_limits(records: list[Record]) -> list[str]:
    """Return what the errors and intervals do not cover."""
    examples = _each(record.evaluation.examples for record in records)
    seeds = len({record.run.seed for record in records})
    return [
        f"Number of seeds: {seeds}. Standard errors are over the validation examples ({examples}), not over seeds. They are 0"
        " at a value of 1.000 or 0.000, which does not make that value exact.",
        "Intervals and tests hold for these trained models. Another seed moves the differences further.",
    ]


def _device_limits(records: list[Record], derived: Derived) -> list[str]:
    """Return what the speeds and the devices do not show."""
    devices = {record.evaluation.device for record in records} | {each.train.device for each in records if each.train}
    limits = [
        f"Devices: {'; '.join(sorted(devices))}. Speeds are of the training device and say nothing about another."
        " Jobs that ran side by side shared its cores and memory bandwidth."
    ]
    if WAFER not in devices:
        limits.append("Nothing here has run on a Cerebras CS-3.")
    trained = derived.points[derived.points["device"].notna()]
    mixed = [" ".join(line) for line, rows in trained.groupby(LINE, sort=False) if rows["device"].nunique() > 1]
    if mixed:
        limits.append(
            f"Several devices trained these curves, so their speeds are drawn and judged apart: {', '.join(mixed)}."
        )
    return limits


def _example_limits(evaluations: list[EvaluationRecord]) -> list[str]:
    """Return what is unusual about the examples, one sentence each."""
    limits = []
    if shared := {f"{each.task} {each.train_overlap}" for each in evaluations if each.train_overlap}:
        limits.append(f"Training examples with the prompt of a validation example: {_each(shared)}.")
    for each in evaluations:
        if each.few_shot != each.loss_few_shot:
            limits.append(
                f"{each.task} is answered after {each.few_shot} worked examples, but its losses are taken after"
                f" {each.loss_few_shot}. The two do not describe the same prompt."
            )
    repeated = {
        f"{each.task} {each.examples - each.distinct_prompts} of {each.examples}"
        for each in evaluations
        if each.distinct_prompts < each.examples
    }
    if repeated:
        limits.append(
            f"Validation examples whose prompt repeats another's: {_each(repeated)}. Tests assume independent examples, so"
            " nothing is compared if more than a tenth repeat."
        )
    if tied := {f"{each.task} {each.ties}" for each in evaluations if each.ties}:
        limits.append(f"Validation examples with several likeliest choices, of which the first counts: {_each(tied)}.")
    return list(dict.fromkeys(limits))


def _run_limits(judged: list[Judged]) -> list[str]:
    """Return how many runs have a fault, were not fully checked, or are outside the study, a sentence each."""
    limits = []
    if failed := sum(bool(each.faults) for each in judged):
        limits.append(
            f"{failed} of {len(judged)} runs have a fault, which correctness_memo.md names. The tables mark them. No comparison,"
            " verdict, sentence or figure uses them."
        )
    if in_part := sum(bool(each.unchecked) for each in judged):
        limits.append(f"{in_part} of {len(judged)} runs were not fully checked. correctness_memo.md says what is open.")
    if outside := sum(each.outside is not None for each in judged):
        limits.append(f"{_runs(outside)} outside the configured study. Only summary.csv has them, with in_study False.")
    return limits


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"


def _reproduce(reproduction: Reproduction) -> str:
    """Return the section with the commands that make the results again."""
    study = _NO_STUDY
    if reproduction.configuration:
        study = _STUDY.format(
            configuration=reproduction.configuration,
            digest=reproduction.digest,
            study=reproduction.study(),
            new_study=reproduction.new_study(),
        )
    return _REPRODUCE.format(study=study, analysis=reproduction.analysis())


def _each(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
