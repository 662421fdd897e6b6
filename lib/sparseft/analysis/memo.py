"""correctness_memo.md: for every run, what was checked and whether the chain of its hashes holds; failures first.

Everything is read from the run folders at writing time, and each check comes with the command that repeats it.
"""

from pathlib import Path

from sparseft.analysis.chain import links, short
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import markdown_table
from sparseft.analysis.records import Gap
from sparseft.analysis.reproduce import Reproduction
from sparseft.files import atomic_file
from sparseft.grid import Run

_HOW = """## What was checked, and how to repeat it

The validation compares every prunable weight of the merged model with the mask: a pruned weight must be exactly zero
(within the tolerance of its row below), a layer that the mask names must be there, and every tensor outside the mask
must be what it was in the base model. *Sparsity* is the share of zeros among the prunable weights; it may exceed what
was asked by the kept weights that happen to be zero. *Train-merge gap* is the evaluation loss, in nats per answer
token, and the metric after the merge minus before it. That a kept weight is what W + alpha/r B A makes it is not read
off the file: the merge's hashes tie it to its inputs. To repeat the check of one run:

```
{command}
```

The merged model is temporary unless the configuration says `keep_merged`. {merge}"""
_MERGE = """This command makes it again, of the configuration
`{configuration}` (sha256 {digest}):

```
{command}
```
"""
_NO_MERGE = """The analysis was given no
configuration that asks for these runs (`--configuration`), so this page cannot say which command makes it again.
"""

_CHAIN = """## Chain of hashes

Each stage records the sha256 of what it read and wrote. A chain holds when these are equal:

- base: `train.json`, `before_merge.json` and `merge.json` inputs.model, `validation_report.json` inputs.base
- mask: `train.json`, `before_merge.json`, `merge.json` and `validation_report.json` inputs.mask
- adapter: `train.json` outputs.adapter, `before_merge.json` and `merge.json` inputs.adapter (none in mode no_finetune)
- merged: `merge.json` outputs, `validation_report.json` inputs.checkpoint, `evaluation.json` inputs.model
- of mask and adapter also the files themselves, as far as they are there: hashed when this page was written
- data: `train.json` inputs.validation, `before_merge.json` and `evaluation.json` inputs.data
- train: `train.json`, `before_merge.json` and `evaluation.json` inputs.train, and the examples that calibrated the mask

A digest of a base or of a merged model covers all files that decide what it computes: its weights, its configuration and
its tokenizer.

Between runs of one setting: the same base in all runs of a model, the same mask in all of its file, the same data in all of
a task, and no adapter in two runs. Where they differ, the fewer are named as faults, and both where neither is.

The first twelve digits; summary.csv has them whole. A merged model has the sha256 of what
`LC_ALL=C sha256sum *` prints in its folder.

"""


def write_memo(
    path: Path,
    judged: list[Judged],
    gaps: list[Gap],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
) -> None:
    """Write the memo: totals, failures, runs outside the study, gaps, the checks of every run, its chain.

    `judged` is what judge_runs returns; `reproduction` has the commands that repeat the checks."""
    shown = _shown_run(judged, reproduction)
    sections = [
        "# Correctness memo\n",
        _totals(judged, gaps),
        _failures(judged, reproduction),
        _outside(judged),
        _gaps(gaps),
        _HOW.format(command=reproduction.validation(shown), merge=_merge_again(shown, reproduction)),
        "## Every run\n\n" + _checks(judged),
        _open_checks(judged),
        _CHAIN + _chains(judged),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def _shown_run(judged: list[Judged], reproduction: Reproduction) -> Run:
    """Return the run that the commands show: the first that the configuration asks for, else the first."""
    runs = [each.record.run for each in judged]
    return next((run for run in runs if run.id in reproduction.run_ids), runs[0])


def _merge_again(run: Run, reproduction: Reproduction) -> str:
    """Return how to make the merged model of a run again, or that it is not known how."""
    if run.id not in reproduction.run_ids:
        return _NO_MERGE
    return _MERGE.format(
        configuration=reproduction.configuration, digest=reproduction.digest, command=reproduction.merge(run)
    )


def _totals(judged: list[Judged], gaps: list[Gap]) -> str:
    records = [each.record for each in judged]
    failing = sum(bool(each.faults) for each in judged)
    in_part = sum(bool(each.unchecked) for each in judged)
    outside = sum(each.outside is not None for each in judged)
    passed = sum(record.validation.passed for record in records)
    whole = sum(not any(link.fault for link in links(record)) for record in records)
    return (
        f"- {len(records)} runs checked, {failing} with a fault, {in_part} not fully checked"
        f", {outside} outside the configured study"
        f"; {sum(gap.left_out for gap in gaps)} more are missing or could not be read and are in no table\n"
        f"- validation passed: {passed} of {len(records)}"
        f"; {sum(record.validation.weights for record in records):,} weights compared with their masks"
        f", {sum(record.validation.violations for record in records):,} violations\n"
        f"- chain of hashes holds: {whole} of {len(records)}\n"
    )


def _failures(judged: list[Judged], reproduction: Reproduction) -> str:
    """Return the section on the runs with a fault, each with the command that validates it again; empty if there is none."""
    failing = [each for each in judged if each.faults]
    if not failing:
        return ""
    entries = []
    for each in failing:
        reasons = "".join(f"- {reason}\n" for reason in each.faults)
        run = each.record.run
        entries.append(f"### {run.id}\n\n{reasons}\n```\n{reproduction.validation(run)}\n```\n")
    return "## Runs that fail\n\n" + "\n".join(entries)


def _outside(judged: list[Judged]) -> str:
    rows = [(each.record.run.id, each.outside) for each in judged if each.outside]
    if not rows:
        return ""
    words = "These runs are in summary.csv only: no mean, comparison or figure has them.\n\n"
    return "## Runs outside the configured study\n\n" + words + markdown_table(["run", "reason"], rows)


def _open_checks(judged: list[Judged]) -> str:
    """Return the checks that could not be made, with their runs."""
    runs: dict[str, list[str]] = {}
    for each in judged:
        for reason in each.unchecked:
            runs.setdefault(reason, []).append(each.record.run.id)
    if not runs:
        return ""
    rows = [(reason, len(names), ", ".join(names)) for reason, names in runs.items()]
    return "## What was not checked\n\n" + markdown_table(["check", "runs", "which"], rows)


def _gaps(gaps: list[Gap]) -> str:
    if not gaps:
        return ""
    rows = [(gap.run_id, "in no table" if gap.left_out else "in the tables, with blanks", gap.reason) for gap in gaps]
    return "## Missing or unreadable\n\n" + markdown_table(["run", "consequence", "reason"], rows)


def _checks(judged: list[Judged]) -> str:
    header = """run|verdict|layers checked / expected|weights compared|violations|largest pruned weight (tolerance)
        |sparsity expected / found|outside tensors changed / checked|train-merge gap, loss / metric|chain"""
    rows = []
    for each in judged:
        record = each.record
        report = record.validation
        followed = links(record)
        outside = f"{len(report.tensors_outside_changed)} / {report.tensors_outside_checked}"
        rows.append(
            [
                record.run.id,
                each.verdict,
                f"{report.layers_checked} / {report.layers_expected}",
                f"{report.weights:,}",
                report.violations,
                f"{report.max_abs_pruned:.3g} ({report.tolerance:.3g})",
                f"{_number(report.expected_sparsity, '.6f')} / {_number(report.actual_sparsity, '.6f')}",
                outside if report.inputs.base else "not checked",
                f"{_number(record.train_merge_gap, '+.2g')} / {_number(record.train_merge_gap_value, '+.3f')}",
                f"{sum(link.fault is None for link in followed)} of {len(followed)}",
            ]
        )
    return markdown_table([name.strip() for name in header.split("|")], rows)


def _chains(judged: list[Judged]) -> str:
    rows = []
    for each in judged:
        followed = links(each.record)
        rows.append([each.record.run.id, *("BROKEN" if link.fault else short(link.digest) for link in followed)])
    return markdown_table(["run", *(link.name for link in followed)], rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
