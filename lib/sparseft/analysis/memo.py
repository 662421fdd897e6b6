"""Write correctness_memo.md: whether everything that was checked holds, what failed, and what was checked in every run.

Everything is read from the run folders when the page is written. Each check comes with the command that repeats it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from sparseft.analysis import report_tables
from sparseft.analysis.chain import Link
from sparseft.analysis.counts import count_runs
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import bullets, document, markdown_table
from sparseft.analysis.records import Gap
from sparseft.analysis.reproduce import Reproduction
from sparseft.analysis.texts import number
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import Run

_HOW = """## What was checked, and how to repeat it

The validation compares every prunable weight of the merged model with the mask. A pruned weight must be exactly zero, within
the tolerance of its row below. Every layer of the mask must be there. Every tensor outside the mask must be as in the base.
The validation does not compute a kept weight, W + alpha/r B A, again. The hashes of the merge tie it to its inputs. To repeat
the check of one run:

```
{command}
```

The merged model is temporary unless the configuration says `keep_merged`. {merge}"""
_MERGE = """This command makes it again, from the configuration
`{configuration}` (sha256 {digest}):

```
{command}
```
"""
_NO_MERGE = """The analysis was given no
configuration that asks for these runs (`--configuration`), so this page cannot say which command makes it again.
"""
_COLUMNS = """
*Sparsity* is the share of zeros among the prunable weights; kept weights may happen to be zero too. *Train-merge gap* is the
evaluation loss, in nats per answer token, and the metric: after the merge minus before it.
"""

_PROBES = """In each of these runs, the value of the probe and its standard error follow from its outcomes, one per example. *All* means
that the outcomes follow from the log-likelihoods or the texts and from the right answers. Otherwise only lm-eval can compute
them. The right answers, and the sha256 of the probe's rows and of its definition, were compared with the data, where it is there.
"""

_CHAIN = """## Chain of hashes

Each stage records the sha256 of what it read and wrote. A link holds if all of these are equal:

- base: inputs.model of `train.json`, `before_merge.json` and `merge.json`; inputs.base of `validation_report.json`
- mask: inputs.mask of these four; the mask's file, which must have the layers and the settings of `validation_report.json`
- adapter: outputs.adapter of `train.json`; inputs.adapter of `before_merge.json` and `merge.json`; the adapter's files
  (no adapter in mode no_finetune)
- merged: outputs of `merge.json`; inputs.checkpoint of `validation_report.json`; inputs.model of `evaluation.json`
- data: inputs.validation of `train.json`; inputs.data of `before_merge.json` and `evaluation.json`
- train: inputs.train of `train.json`, `before_merge.json` and `evaluation.json`; the examples that calibrated the mask
- start, in mode reconstruct_to_sparse: inputs.initial_adapter of `train.json`; outputs.adapter of the run in mode reconstruct
- selection, of a training with a name: inputs.model, inputs.train and inputs.validation of `selection.json`, which must be those of
  `evaluation.json`
- definition, of a task that is not built in: definition_sha256 of `train.json`, `before_merge.json` and `evaluation.json`; the
  definition in the manifest of the task's data

The hash of a base or of a merged model covers its weights, its configuration and its tokenizer. `LC_ALL=C sha256sum *` in the
folder of a merged model prints the text that its hash is of. summary.csv has the hashes of every run.

Runs of one setting must agree too: on the base of a model, the mask of a method and sparsity, the data and prompts of a task,
and how many of the prompts are distinct. A method that updates weights has a pruned base per mask; the mask records the model from which it was made, which must be
the base of the other runs. No two runs may share an adapter. A run and the one that it starts from must name the same adapter. If
runs disagree, the minority is at fault. Without a minority all of them are.
"""


def write_memo(
    path: Path,
    judged: list[Judged],
    gaps: list[Gap],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
    tuning: str = "",
    overlaps: Iterable[str] = (),
) -> None:
    """Write the memo: whether everything holds, faults, open checks, gaps, then the checks and the hashes of every run.

    `judged` is what judge_runs returns. `reproduction` has the commands that repeat the checks. `tuning` is the section on the
    choice of the trainings; empty without a choice. `overlaps` are sentences on evaluated data that the models have seen."""
    example = _example_run(judged, reproduction)
    sections = [
        "# Correctness memo\n",
        _verdict(judged, gaps),
        _totals(judged, overlaps),
        _faults(judged, reproduction),
        _ended_early(judged),
        _open_checks(judged),
        _outside(judged),
        _gaps(gaps),
        tuning,
        _probes(judged),
        _HOW.format(command=reproduction.validation(example), merge=_merge_again(example, reproduction)),
        f"## Every run\n\n{_checks(judged)}{_COLUMNS}",
        _CHAIN,
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(document(sections), encoding="utf-8")


def _example_run(judged: list[Judged], reproduction: Reproduction) -> Run:
    """Return the run that the commands show: the first that the configuration requests, or else the first."""
    runs = [run.record.run for run in judged]
    return next((run for run in runs if run.id in reproduction.run_ids), runs[0])


def _merge_again(run: Run, reproduction: Reproduction) -> str:
    """Return how to make the merged model of a run again, or why this is unknown."""
    if run.id not in reproduction.run_ids:
        return _NO_MERGE
    return _MERGE.format(
        configuration=reproduction.configuration, digest=reproduction.digest, command=reproduction.merge(run)
    )


def _verdict(judged: list[Judged], gaps: list[Gap]) -> str:
    """Return the line that says whether everything that was checked holds, with the counts."""
    counts = count_runs(judged, gaps)
    if counts.faulty:
        answer = "Not everything that was checked in the study holds"
    elif counts.unchecked or counts.missing:
        answer = "Everything that was checked in the study holds, but not everything was checked"
    else:
        answer = "Everything that was checked in the study holds"
    return f"**{answer}.** {counts.runs_text} checked, {counts.text}.\n"


def _totals(judged: list[Judged], overlaps: Iterable[str]) -> str:
    """Return how many runs passed each kind of check, and the sentences on evaluated data that the models have seen."""
    records = [run.record for run in judged]
    passed = sum(record.validation.passed for record in records)
    unbroken = sum(not any(link.fault for link in run.chain) for run in judged)
    weights = sum(record.validation.weights for record in records)
    violations = sum(record.validation.violations for record in records)
    return bullets(
        [
            f"The validation passed in {passed} of {len(records)} runs: {weights:,} weights were compared with their masks,"
            f" {violations:,} violate them.",
            f"The chain of hashes holds in {unbroken} of {len(records)} runs.",
            *overlaps,
        ]
    )


def _faults(judged: list[Judged], reproduction: Reproduction) -> str:
    """Return the section on the runs with a fault, with the commands that validate them again; empty if there are none."""
    entries = []
    for run in judged:
        if run.faults:
            command = reproduction.validation(run.record.run)
            entries.append(f"### {run.record.run.id}\n\n{bullets(run.faults)}\n```\n{command}\n```\n")
    return "## Runs with a fault\n\n" + "\n".join(entries) if entries else ""


def _ended_early(judged: list[Judged]) -> str:
    """Return the section on the trainings that ended early; empty if there are none."""
    rows = [(run.record.run.id, run.ended_early) for run in judged if run.ended_early]
    if not rows:
        return ""
    words = "No comparison, verdict, choice, sentence or figure uses these runs. The tables mark the cells that contain them.\n\n"
    return "## Trainings that ended early\n\n" + words + markdown_table(["run", "how"], rows)


def _outside(judged: list[Judged]) -> str:
    """Return the section on the runs outside the study; empty if there are none."""
    rows = [(run.record.run.id, run.outside) for run in judged if run.outside]
    if not rows:
        return ""
    words = "Only summary.csv has these runs. No mean, comparison or figure uses them.\n\n"
    return "## Runs outside the configured study\n\n" + words + markdown_table(["run", "reason"], rows)


def _open_checks(judged: list[Judged]) -> str:
    """Return the section on the checks that could not be made, with their runs; empty if all were made."""
    runs: dict[str, list[str]] = {}
    for run in judged:
        for reason in run.unchecked:
            runs.setdefault(reason, []).append(run.record.run.id)
    if not runs:
        return ""
    rows = [
        (reason, len(names), "all" if len(names) == len(judged) > 1 else ", ".join(names))
        for reason, names in runs.items()
    ]
    return "## What was not checked\n\n" + markdown_table(["check", "runs", "which"], rows)


def _gaps(gaps: list[Gap]) -> str:
    """Return the section on what is missing; empty if nothing is."""
    table = report_tables.missing(gaps)
    return f"## {table.caption}\n\n" + markdown_table(table.header, table.rows) if table.rows else ""


def _probes(judged: list[Judged]) -> str:
    """Return the section on the probes, with how many runs have each; empty without probes."""
    counts = Counter(
        (name, probe.metric, probe.examples, "mean of the outcomes" if probe.not_recomputed else "all")
        for run in judged
        for name, probe in run.record.evaluation.probes.items()
    )
    rows = [(*key, f"{number_of_runs} of {len(judged)}") for key, number_of_runs in counts.items()]
    table = markdown_table(["probe", "metric", "examples", "computed again", "runs"], rows)
    return f"## Probes\n\n{_PROBES}\n{table}" if rows else ""


def _checks(judged: list[Judged]) -> str:
    """Return the table of what the validation found in each run."""
    columns: dict[str, Callable[[Judged], object]] = {
        "run": lambda run: run.record.run.id,
        "verdict": lambda run: run.verdict,
        "layers checked / expected": _layers,
        "weights compared": lambda run: f"{run.record.validation.weights:,}",
        "violations": lambda run: run.record.validation.violations,
        "largest pruned weight (tolerance)": _largest_pruned,
        "sparsity expected / found": _sparsities,
        "outside tensors changed / checked": _outside_tensors,
        "train-merge gap, loss / metric": _train_merge_gap,
        "chain": lambda run: _chain(run.chain),
    }
    return markdown_table(list(columns), [[text(run) for text in columns.values()] for run in judged])


def _layers(run: Judged) -> str:
    """Return how many layers were checked, and how many there should be."""
    return f"{run.record.validation.layers_checked} / {run.record.validation.layers_expected}"


def _largest_pruned(run: Judged) -> str:
    """Return the largest absolute value of a pruned weight, and the tolerance."""
    return f"{run.record.validation.max_abs_pruned:.3g} ({run.record.validation.tolerance:.3g})"


def _sparsities(run: Judged) -> str:
    """Return the share of weights that the mask prunes, and the share of zeros."""
    report = run.record.validation
    return f"{number(report.expected_sparsity, '.6f')} / {number(report.actual_sparsity, '.6f')}"


def _outside_tensors(run: Judged) -> str:
    """Return how many tensors outside the mask differ from the base, and how many were compared."""
    report = run.record.validation
    if not report.inputs.base:
        return "not checked"
    return f"{len(report.tensors_outside_changed)} / {report.tensors_outside_checked}"


def _train_merge_gap(run: Judged) -> str:
    """Return what the merge adds to the loss and to the metric."""
    return f"{number(run.record.train_merge_gap, '+.2g')} / {number(run.record.train_merge_gap_value, '+.3f')}"


def _chain(followed: list[Link]) -> str:
    """Return how many links of a chain hold, and which are broken."""
    broken = [link.name for link in followed if link.fault]
    holding = f"{len(followed) - len(broken)} of {len(followed)}"
    return f"{holding}, BROKEN: {', '.join(broken)}" if broken else holding
