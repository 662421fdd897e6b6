"""EXPERIMENTS.md: the study written up from its numbers: setting, results, findings, limits, how to reproduce.

A finding gives a difference its number only where it is significant after Holm's correction (comparisons.py); the rest
it names as not significant, which is not the same as equal. A run with a fault supports no sentence.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sparseft.analysis.chain import short
from sparseft.analysis.derived import Derived
from sparseft.analysis.findings import FRONTS, difference, findings, percents
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import markdown_table
from sparseft.analysis.records import Evaluation, Record, Training
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.tables import LINE, asked_and_reached
from sparseft.files import atomic_file
from sparseft.grid import MODES, WAFER

_RESULTS = """## Results

A value is the mean over the models ± the standard error over the examples; beside a yes/no task's stand the shares of the
no and of the yes questions that were answered rightly: 1 and 0 is a model that always says no. Above chance means above
what guessing scores, or one and the same answer to all questions where that scores more.

Differences are over the same examples; in brackets stand the ends of their 95 % confidence interval (paired bootstrap over
the examples; of a verdict also Student's over the seeds). They have a number where McNemar's exact test, or Student's paired t test of the losses (nats per answer
token), is significant at 5 % after Holm's correction, over all comparisons of that kind on the model and task, in every
seed: comparisons.csv has all of them. *Not significant* means that these examples cannot tell, or that a seed has no
counterpart, not that there is no difference. The sentences name at most four sparsities.

Sparsity is the one that was asked for; in parentheses stands the share of weights that the masks reached, where it differs.

No regression beyond a tolerance means that the whole interval of the difference to dense lies above it, at this sparsity
and at every smaller one of the study. A curve has no verdict if its dense model scores no better than guessing. Best in value for its sparsity (or training speed) means that no other point is better in one and
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
    results = [_task_section(task, derived, tolerance) for task in derived.cells["task"].unique()]
    sections = [
        "# Experiments\n",
        _setting(records, derived.cells),
        _RESULTS,
        *results,
        "## Figures\n\n" + "\n".join(f"![{Path(name).stem}](plots/{name})\n" for name in plots) if plots else "",
        _limits(records, judged, derived, left_out),
        _reproduce(reproduction),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def results_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return value ± standard error as text: a row per setting, model, task, metric, method and sparsity, a column per mode."""
    rows = ["setting", "model", "task", "metric", "method", "sparsity"]
    text = [_value(cell) for cell in cells.itertuples()]
    wide = cells.assign(text=text, sparsity=percents(cells)).pivot(index=rows, columns="mode", values="text")
    modes = [mode for mode in MODES if mode in wide]
    order = cells.assign(sparsity=percents(cells))[rows].drop_duplicates()  # pivot sorts by the alphabet
    table = wide.loc[list(order.itertuples(index=False, name=None)), modes].fillna("-")
    table = table.rename_axis(columns=None).reset_index()
    return table if table["setting"].any() else table.drop(columns="setting")


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
    return f"## Setting\n\n{text}\n" + markdown_table(header, tasks)


def _steps(train: Training) -> str:
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


def _floor(evaluation: Evaluation) -> str:
    floor = evaluation.metrics.get("majority_floor")
    return "-" if floor is None else f"{floor:.3f}"


def _task_section(task: str, derived: Derived, tolerance: float) -> str:
    parts = []
    places = derived.of(task=task).cells[["setting", "model", "metric"]].drop_duplicates()
    for setting, model, metric in places.itertuples(index=False):
        here = derived.of(task=task, setting=setting, model=model, metric=metric)
        title = f"{model}, {metric}" + (f", with {setting}" if setting else "")
        table = results_table(here.cells).drop(columns=["setting", "model", "task", "metric"], errors="ignore")
        sentences = "".join(f"- {sentence}\n" for sentence in findings(here, tolerance))
        header = ["method", "sparsity, %", *table.columns[2:]]
        parts.append(f"{title}:\n\n{markdown_table(header, table.to_numpy())}\n{sentences}")
        parts.append(f"Best trade-offs of {title}:\n\n{_best_table(here.best)}")
    return f"### {task}\n\n" + "\n".join(parts)


def _best_table(best: pd.DataFrame) -> str:
    rows = []
    for row in best.itertuples():
        interval = "-" if pd.isna(row.difference_low) else difference(row)
        respects = ", ".join(words for name, words in FRONTS.items() if getattr(row, name))
        verdict = "-" if pd.isna(row.verdict) else row.verdict
        rows.append([row.method, asked_and_reached(row), row.mode, f"{row.value:.3f}", interval, verdict, respects])
    return markdown_table(["method", "sparsity, %", "mode", "value", "minus dense", "verdict", "best for"], rows)


def _value(cell: tuple) -> str:
    text = f"{cell.value_mean:.3f} ± {cell.standard_error:.3f}"
    for name, recall in (("no", cell.recall_no), ("yes", cell.recall_yes)):
        text += f" {name} {recall:.2f}" if pd.notna(recall) else ""
    return text + (" (at fault)" if cell.n_sound < cell.n else "")


def _limits(records: list[Record], judged: list[Judged], derived: Derived, left_out: int) -> str:
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
    trained = derived.points[derived.points["device"].notna()]
    mixed = [" ".join(line) for line, rows in trained.groupby(LINE, sort=False) if rows["device"].nunique() > 1]
    if mixed:
        limits.append(f"Curves of several devices, whose speeds are drawn and judged apart: {', '.join(mixed)}.")
    shared = {f"{each.evaluation.task} {each.evaluation.train_overlap}" for each in records
              if each.evaluation.train_overlap}  # fmt: skip
    if shared:
        limits.append(f"Training examples with the prompt of a validation example: {_each(shared)}.")
    limits += _run_limits(judged)
    prompts = {
        f"{each.task} is answered after {each.few_shot} worked examples, and its losses are taken after {each.loss_few_shot}"
        for each in (record.evaluation for record in records)
        if each.few_shot != each.loss_few_shot
    }
    limits += [f"{words}: the two do not describe the same prompt." for words in sorted(prompts)]
    repeated = {
        f"{each.task}: {each.examples - each.distinct_prompts} of {each.examples}"
        for each in (record.evaluation for record in records)
        if each.distinct_prompts < each.examples
    }
    if repeated:
        limits.append(
            f"Validation examples whose prompt repeats another's: {_each(repeated)}. Errors and tests take all examples for"
            " independent; if more than a tenth repeat, nothing is compared."
        )
    tied = {f"{each.evaluation.task} {each.evaluation.ties}" for each in records if each.evaluation.ties}
    if tied:
        limits.append(f"Validation examples with several likeliest choices; the first one counts: {_each(tied)}.")
    if derived.cells["setting"].any():
        limits.append("The runs have several settings. Each setting is a group of its own in every table.")
    if left_out:
        limits.append(f"{left_out} runs are missing or could not be read and are in no table; missing.csv names them.")
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _run_limits(judged: list[Judged]) -> list[str]:
    """Return how many runs have a fault, were not fully checked, or are outside the study, a sentence each."""
    limits = []
    if failed := sum(bool(each.faults) for each in judged):
        limits.append(
            f"{failed} of {len(judged)} runs have a fault, which correctness_memo.md names. They stand in the tables, marked;"
            " no comparison, verdict, sentence or figure has them."
        )
    if in_part := sum(bool(each.unchecked) for each in judged):
        limits.append(f"{in_part} of {len(judged)} runs were not fully checked; correctness_memo.md says what is open.")
    if outside := sum(each.outside is not None for each in judged):
        limits.append(f"{outside} runs are outside the configured study: in summary.csv only, in_study False.")
    return limits


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
