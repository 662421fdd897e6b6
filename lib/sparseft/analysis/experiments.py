"""Write EXPERIMENTS.md: what a study shows, its tables, figures and limits, its settings, and how to make it again."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sparseft.analysis import report_tables, tuning_text
from sparseft.analysis.chain import short
from sparseft.analysis.counts import Counts, count_runs
from sparseft.analysis.derived import Derived
from sparseft.analysis.findings import (
    NO_CONCLUSION,
    explain_verdict,
    headline,
    is_loss_place,
    overlaps,
    value_findings,
)
from sparseft.analysis.headlines import is_loss
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import bullets, document, markdown_table
from sparseft.analysis.records import EvaluationRecord, Gap, ReconstructionPart, Record, TrainingRecord
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.tables import LINE, asked_and_reached
from sparseft.analysis.texts import NONE, best_for, difference, number, percents, value_text
from sparseft.errors import one_line
from sparseft.modes import get_mode
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import DENSE, MODES, NO_FINETUNE, PLAIN_LORA, TRAINED_MODES, WAFER
from sparseft.tasks.metrics import MAJORITY_FLOOR

# Settings of a mask that say with what it was computed, and not how.
_PROVENANCE = ("calibration", "accumulated")
_HOW_TO_READ = """## How to read the numbers

- A value is the mean over the seeds ± its standard error over the examples. A yes/no task also shows the shares of right
  answers to the no and to the yes questions.
- A difference is over the same examples. Brackets hold its 95 % confidence interval, and say what it covers. *Over examples*: it
  is of one pair of models, by a paired bootstrap, and holds for these two. *Over seeds and examples*: it is of several seeds.
- A difference is significant if McNemar's exact test says so at 5 % after Holm's correction, with one sign in every seed and
  without 0 in the interval. Holm's correction is over all comparisons of one kind on the model and task. *Not significant* does
  not mean equal.
- A loss above the tolerance is excluded if the whole interval of the difference lies above minus the tolerance. *Largest within*
  is the largest sparsity up to which this holds everywhere on a curve. A curve whose dense model only guesses has no verdict. A
  task whose metric is the loss has none either, because the tolerance is a fraction. Its differences are in nats per token, above 0 is worse, and Student's paired t test decides.
- *Best for sparsity* (or training speed): no other point is as good in both value and this, and better in one. These are
  means, so neighbours may differ by chance.
- Sparsity is the requested one. If the masks reached another one, it is in parentheses.

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
_STUDY = """The file `{configuration}` (sha256 {digest}) has every key of the study's configuration. This command makes what the
study still lacks:

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
    gaps: list[Gap],
    derived: Derived,
    tolerance: float,
    *,
    plots: list[str],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
) -> None:
    """Write the page.

    `plots` are the names of the figures under plots/ that it shows. `reproduction` has the commands that make its results
    again."""
    records = [run.record for run in judged if run.outside is None]
    parts = places(derived)
    figures = "\n".join(f"![{Path(name).stem}](plots/{name})\n" for name in plots)
    sections = [
        "# Experiments\n\n## Results\n",
        *(_results(here, tolerance) for here in parts),
        "## Figures\n\n" + figures if plots else "",
        "## Findings in detail\n",
        *(_details(here, tolerance) for here in parts),
        tuning_text.section(derived.budget, records),
        _HOW_TO_READ,
        _limits(records, derived, count_runs(judged, gaps)),
        _settings(records, derived.cells),
        _reproduce(reproduction),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(document(sections), encoding="utf-8")


def places(derived: Derived) -> list[Derived]:
    """Return the tables of each task, setting, model and metric by themselves, task after task."""
    keys = ["task", "setting", "model", "metric"]
    every_place = derived.cells[keys].drop_duplicates()
    return [
        derived.of(**dict(zip(keys, place, strict=True)))
        for task in every_place["task"].unique()
        for place in every_place[every_place["task"] == task].itertuples(index=False)
    ]


def title(here: Derived) -> str:
    """Return the name of one model, task, metric and setting."""
    cell = here.cells.iloc[0]
    name = f"{cell['model']}, {cell['task']}, {cell['metric']}"
    return one_line(f"{name}, with {cell['setting']}" if cell["setting"] else name)


def results_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the values with their standard errors as text, in a row per method and sparsity and a column per mode.

    `cells` are those of one model, task, metric and setting. A dense run belongs to the curves of every mode that starts from
    it, so its value stands in each of their columns."""
    rows = ["method", "sparsity, %"]
    table = cells.assign(text=[value_text(cell) for cell in cells.itertuples()], **{"sparsity, %": percents(cells)})
    wide = table.pivot(index=rows, columns="mode", values="text")
    trained = set(cells.loc[cells["sparsity"] > 0, "mode"]) & set(TRAINED_MODES) or {PLAIN_LORA}
    modes = [mode for mode in MODES if mode in wide and mode in {NO_FINETUNE, *trained}]
    is_dense = wide.index.get_level_values("method") == DENSE
    for mode in trained:
        if (start := get_mode(mode).dense_mode) in wide:
            wide.loc[is_dense, mode] = wide.loc[is_dense, start]
    # pivot sorts the rows by the alphabet, so the order of the cells is restored.
    order = table[rows].drop_duplicates().itertuples(index=False, name=None)
    return wide.loc[list(order), modes].fillna(NONE).rename_axis(columns=None).reset_index()


def _settings(records: list[Record], cells: pd.DataFrame) -> str:
    """Return the section on the settings of the study and of its tasks."""
    trainings = [record.train for record in records if record.train]
    lines = {
        **_grid_settings(records, cells),
        **_training_settings([train for train in trainings if not train.reconstruction]),
        **_reconstruction_settings([train for train in trainings if train.reconstruction]),
    }
    evaluations = [record.evaluation for record in records]
    lines["evaluation"] = _distinct(done.conditions for done in evaluations)
    lines["probes"] = _distinct(
        f"{name} ({probe.metric} of {probe.examples} examples)"
        for done in evaluations
        for name, probe in done.probes.items()
    )
    text = bullets(f"{name}: {value}" for name, value in lines.items() if value)
    header = ["task", "metric", "chance", "one answer to all", "validation examples"]
    tasks = {(done.task, done.metric, number(done.chance, ".2f"), _floor(done), done.examples) for done in evaluations}
    return f"## Settings\n\n{text}\n" + markdown_table(header, sorted(tasks))


def _grid_settings(records: list[Record], cells: pd.DataFrame) -> dict[str, object]:
    """Return what the runs of the study are, by name."""
    masks = [record.validation.mask for record in records]
    # A method that updates weights has pruned bases, whose mask names the model's own digest.
    bases = [
        (record.run.model, short(record.validation.mask.original or record.merge.inputs.model))
        for record in records
        if record.merge
    ]
    return {
        "models (digest of the base)": _distinct(f"{name} ({digest})" for name, digest in bases),
        "methods": ", ".join(cells["method"].unique()),
        "requested sparsity, percent of the prunable weights": _distinct(cells["sparsity"]),
        "masks": _distinct(_mask_settings(record) for record in records),
        "calibration examples": _distinct(mask.calibration_examples for mask in masks if mask.calibration_examples),
        "modes": ", ".join(mode for mode in MODES if mode in set(cells["mode"])),
        "seeds": _distinct(record.run.seed for record in records),
        "runs": len(records),
    }


def _training_settings(trainings: list[TrainingRecord]) -> dict[str, str]:
    """Return how the runs were trained, by name."""
    return {
        "training": _distinct(f"{train.backend} in {train.dtype} on {train.device}" for train in trainings),
        "training rows (of a text: documents)": _distinct(train.train_examples for train in trainings),
        "steps x batch size": _distinct(_steps(train) for train in trainings),
        "learning rate": _distinct(train.learning_rate for train in trainings),
        "warm-up, share of the steps": _distinct(train.warmup_fraction for train in trainings),
        "weight decay": _distinct(train.weight_decay for train in trainings),
        "LoRA rank, alpha, dropout": _distinct(
            f"{train.lora_r}, {train.lora_alpha:g}, {train.lora_dropout:g}" for train in trainings
        ),
        "LoRA targets": _distinct(" ".join(train.lora_targets) or "all prunable layers" for train in trainings),
        "gradient of the modes that mask every step": _distinct(train.gradient for train in trainings),
        "trainable parameters": _distinct(train.trainable_parameters for train in trainings),
        "versions": _distinct(f"{name} {version}" for train in trainings for name, version in train.versions.items()),
    }


def _reconstruction_settings(trainings: list[TrainingRecord]) -> dict[str, str]:
    """Return how the decoder layers were reconstructed, by name."""
    return {
        "reconstruction, steps of each decoder layer x batch size": _distinct(_steps(train) for train in trainings),
        "reconstruction, learning rate": _distinct(train.learning_rate for train in trainings),
        "reconstruction, examples": _distinct(_reconstructed_on(train.reconstruction) for train in trainings),
    }


def _reconstructed_on(part: ReconstructionPart) -> str:
    """Return on which examples decoder layers were reconstructed."""
    if part.text_sha256 is None:
        return f"{part.examples} training examples of the task"
    return f"{part.examples} windows of {part.length} tokens (text {short(part.text_sha256)})"


def _steps(train: TrainingRecord) -> str:
    """Return steps x batch size, and how many steps changed the adapter. The first step of a warm-up does not."""
    text = f"{train.steps} x {train.batch_size}"
    return text if train.updates == train.steps else f"{text} ({train.updates} with a learning rate above 0)"


def _mask_settings(record: Record) -> str:
    """Return the settings of a run's mask as a text, such as "unstructured: scope layer"."""
    chosen = {
        name: value
        for name, value in record.validation.mask.settings.items()
        if value is not None and not name.startswith(_PROVENANCE)
    }
    return f"{record.run.method}: " + " ".join(f"{name} {value}" for name, value in chosen.items())


def _floor(evaluation: EvaluationRecord) -> str:
    """Return what one answer to all questions scores; "-" if the task has no such score."""
    return number(evaluation.metrics.get(MAJORITY_FLOOR.name), ".3f")


def _results(here: Derived, tolerance: float) -> str:
    """Return the headline and the table of one model, task, metric and setting."""
    sentences = overlaps(here.runs) + (headline(here, tolerance) or [NO_CONCLUSION])
    table = results_table(here.cells)
    results = markdown_table(list(table), table.to_numpy())
    return f"### {title(here)}\n\n{bullets(sentences)}\n{results}{_probes(here)}"


def _probes(here: Derived) -> str:
    """Return the table of the probes, with a note on how to read it; empty without probes."""
    table = report_tables.probes(here.cells)
    return f"\n{table.caption}: {table.note}\n\n{markdown_table(table.header, table.rows)}" if table.rows else ""


def _details(here: Derived, tolerance: float) -> str:
    """Return the findings of one model, task, metric and setting, and its best points."""
    sentences = bullets(value_findings(here, tolerance))
    best = f"The best points:\n\n{_best_table(here, tolerance)}" if len(here.best) else ""
    return f"### {title(here)}\n\n{sentences}\n{best}"


def _best_table(here: Derived, tolerance: float) -> str:
    """Return the best points, with their verdicts in words."""
    examples = here.cells["examples"].max()
    header = ["method", "sparsity, %", "mode", "value", "minus dense", f"a loss above {tolerance:g}", "best for"]
    rows = []
    for row in here.best.itertuples():
        to_dense = NONE if pd.isna(row.difference_low) else difference(row)
        verdict = explain_verdict(row.verdict, row.difference_to_dense, examples)
        rows.append(
            [row.method, asked_and_reached(row), row.mode, f"{row.value:.3f}", to_dense, verdict, best_for(row)]
        )
    if is_loss_place(here):
        # A loss has no verdict.
        place = header.index(f"a loss above {tolerance:g}")
        for cells in (header, *rows):
            del cells[place]
    return markdown_table(header, rows)


def _limits(records: list[Record], derived: Derived, counts: Counts) -> str:
    """Return the section on what the results do not show."""
    limits = [
        *_sampling_limits(records),
        *_device_limits(records, derived),
        *_example_limits([record.evaluation for record in records]),
        *_run_limits(counts),
    ]
    if derived.cells["setting"].any():
        limits.append("The runs have several settings. Each setting has its own rows in every table.")
    if counts.missing:
        limits.append(
            f"{_runs_are(counts.missing)} missing or unreadable and in no table; missing.csv gives the reasons."
        )
    return f"## Limits\n\n{bullets(limits)}"


def _sampling_limits(records: list[Record]) -> list[str]:
    """Return what the errors and intervals do not cover."""
    examples = _distinct(record.evaluation.examples for record in records)
    seeds = len({record.run.seed for record in records})
    exact = ""
    if not all(is_loss(record.evaluation.metric) for record in records):
        exact = " They are 0 at a value of 1.000 or 0.000, which does not make that value exact."
    return [
        f"Number of seeds: {seeds}. Standard errors are over the validation examples ({examples}), not over seeds.{exact}",
        _scope(seeds),
    ]


def _scope(seeds: int) -> str:
    """Return for what intervals and tests hold."""
    if seeds == 1:
        return "Intervals and tests hold for these trained models. Another seed moves the differences further."
    return (
        "Intervals over seeds and examples cover other seeds too. Intervals over examples, and those of the share that is won"
        " back, hold for these trained models."
    )


def _device_limits(records: list[Record], derived: Derived) -> list[str]:
    """Return what the speeds and the devices do not show."""
    devices = {record.evaluation.device for record in records}
    devices |= {record.train.device for record in records if record.train}
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
    limits = [_other_prompt(done) for done in evaluations if done.few_shot != done.loss_few_shot]
    repeated = {
        f"{done.task} {done.examples - done.distinct_prompts} of {done.examples}"
        for done in evaluations
        if done.distinct_prompts < done.examples
    }
    if repeated:
        limits.append(
            f"Validation examples whose prompt repeats another's: {_distinct(repeated)}. Tests assume independent examples, so"
            " nothing is compared if more than a tenth repeat."
        )
    if tied := {f"{done.task} {done.ties}" for done in evaluations if done.ties}:
        limits.append(
            f"Validation examples with several likeliest choices, of which the first counts: {_distinct(tied)}."
        )
    return list(dict.fromkeys(limits))


def _other_prompt(evaluation: EvaluationRecord) -> str:
    """Return the sentence on an evaluation whose answers and losses have different prompts."""
    return (
        f"{evaluation.task} is answered after {evaluation.few_shot} worked examples, but its losses are taken after"
        f" {evaluation.loss_few_shot}. The two do not describe the same prompt."
    )


def _run_limits(counts: Counts) -> list[str]:
    """Return how many runs have a fault, were not fully checked, or are outside the study, a sentence each."""
    limits = []
    if counts.faulty:
        limits.append(
            f"{counts.faulty} of {counts.in_study} runs have a fault, which correctness_memo.md names. The tables mark them. No"
            " comparison, verdict, sentence or figure uses them."
        )
    if counts.ended_early:
        limits.append(
            f"{counts.ended_early} of {counts.in_study} runs have a training that ended early, which correctness_memo.md names. The"
            " tables mark them. No comparison, verdict, sentence or figure uses them."
        )
    if counts.unchecked:
        limits.append(
            f"{counts.unchecked} of {counts.in_study} runs were not fully checked. correctness_memo.md says what is open."
        )
    if counts.outside:
        limits.append(
            f"{_runs_are(counts.outside)} outside the configured study. Only summary.csv has them, with in_study False."
        )
    return limits


def _runs_are(count: int) -> str:
    """Return the beginning of a sentence on some runs."""
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


def _distinct(values: Iterable) -> str:
    """Return the distinct values in their order, as a list in a sentence."""
    return ", ".join(str(value) for value in sorted(set(values)))
