"""correctness_memo.md: whether everything that was checked holds, what failed, and what was checked in every run.

Everything is read from the run folders when the page is written. Each check comes with the command that repeats it.
"""

from pathlib import Path

from sparseft.analysis.chain import Link
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown import bullets, markdown_table
from sparseft.analysis.records import Gap
from sparseft.analysis.reproduce import Reproduction
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import Run

_HOW = """## What was checked, and how to repeat it

The validation compares every prunable weight of the merged model with the mask. A pruned weight must be exactly zero, within
the tolerance of its row below. Every layer of the mask must be there. Every tensor outside the mask must be as in the base.
That a kept weight is W + alpha/r B A is not read off the file: the merge's hashes tie it to its inputs. To repeat the check of
one run:

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

_CHAIN = """## Chain of hashes

Each stage records the sha256 of what it read and wrote. A link holds if all of these are equal:

- base: inputs.model of `train.json`, `before_merge.json` and `merge.json`; inputs.base of `validation_report.json`
- mask: inputs.mask of these four; the mask's file
- adapter: outputs.adapter of `train.json`; inputs.adapter of `before_merge.json` and `merge.json`; the adapter's files
  (no adapter in mode no_finetune)
- merged: outputs of `merge.json`; inputs.checkpoint of `validation_report.json`; inputs.model of `evaluation.json`
- data: inputs.validation of `train.json`; inputs.data of `before_merge.json` and `evaluation.json`
- train: inputs.train of `train.json`, `before_merge.json` and `evaluation.json`; the examples that calibrated the mask

The hash of a base or of a merged model covers its weights, its configuration and its tokenizer. `LC_ALL=C sha256sum *` in the
folder of a merged model prints the text that its hash is of. summary.csv has the hashes of every run.

Runs of one setting must agree too: on the base of a model, the mask of a method and sparsity, and the data and prompts of a
task. No two runs may share an adapter. If runs disagree, the minority is at fault. Without a minority all of them are.
"""


def write_memo(
    path: Path,
    judged: list[Judged],
    gaps: list[Gap],
    reproduction: Reproduction = Reproduction(),  # noqa: B008  immutable
) -> None:
    """Write the memo: whether everything holds, faults, open checks, gaps, then the checks and the hashes of every run.

    `judged` is what judge_runs returns; `reproduction` has the commands that repeat the checks."""
    shown = _shown_run(judged, reproduction)
    sections = [
        "# Correctness memo\n",
        _verdict(judged, gaps),
        _totals(judged),
        _faults(judged, reproduction),
        _open_checks(judged),
        _outside(judged),
        _gaps(gaps),
        _HOW.format(command=reproduction.validation(shown), merge=_merge_again(shown, reproduction)),
        f"## Every run\n\n{_checks(judged)}{_COLUMNS}",
        _CHAIN,
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


def _verdict(judged: list[Judged], gaps: list[Gap]) -> str:
    """Return the line that says whether everything that was checked holds, with the counts."""
    faulty = sum(bool(each.faults) for each in judged)
    in_part = sum(bool(each.unchecked) for each in judged)
    outside = sum(each.outside is not None for each in judged)
    missing = sum(gap.left_out for gap in gaps)
    if faulty:
        answer = "Not everything that was checked holds"
    elif in_part or missing:
        answer = "Everything that was checked holds, but not everything was checked"
    else:
        answer = "Everything that was checked holds"
    counts = f"{len(judged)} runs checked, {faulty} with a fault, {in_part} not fully checked, {missing} missing or unreadable"
    return f"**{answer}.** {counts}" + (f", {outside} outside the configured study.\n" if outside else ".\n")


def _totals(judged: list[Judged]) -> str:
    """Return how many runs passed each kind of check."""
    records = [each.record for each in judged]
    passed = sum(record.validation.passed for record in records)
    whole = sum(not any(link.fault for link in each.chain) for each in judged)
    weights = sum(record.validation.weights for record in records)
    violations = sum(record.validation.violations for record in records)
    return bullets(
        [
            f"The validation passed in {passed} of {len(records)} runs: {weights:,} weights were compared with their masks,"
            f" {violations:,} violate them.",
            f"The chain of hashes holds in {whole} of {len(records)} runs.",
        ]
    )


def _faults(judged: list[Judged], reproduction: Reproduction) -> str:
    """Return the section on the runs with a fault, each with the command that validates it again; empty if there is none."""
    entries = []
    for each in judged:
        if each.faults:
            run = each.record.run
            entries.append(f"### {run.id}\n\n{bullets(each.faults)}\n```\n{reproduction.validation(run)}\n```\n")
    return "## Runs with a fault\n\n" + "\n".join(entries) if entries else ""


def _outside(judged: list[Judged]) -> str:
    """Return the section on the runs outside the study; empty if there is none."""
    rows = [(each.record.run.id, each.outside) for each in judged if each.outside]
    if not rows:
        return ""
    words = "Only summary.csv has these runs. No mean, comparison or figure uses them.\n\n"
    return "## Runs outside the configured study\n\n" + words + markdown_table(["run", "reason"], rows)


def _open_checks(judged: list[Judged]) -> str:
    """Return the section on the checks that could not be made, with their runs; empty if all were made."""
    runs: dict[str, list[str]] = {}
    for each in judged:
        for reason in each.unchecked:
            runs.setdefault(reason, []).append(each.record.run.id)
    if not runs:
        return ""
    rows = [
        (reason, len(names), "all" if len(names) == len(judged) > 1 else ", ".join(names))
        for reason, names in runs.items()
    ]
    return "## What was not checked\n\n" + markdown_table(["check", "runs", "which"], rows)


def _gaps(gaps: list[Gap]) -> str:
    """Return the section on what is missing; empty if nothing is."""
    if not gaps:
        return ""
    rows = [(gap.run_id, "in no table" if gap.left_out else "in the tables, with blanks", gap.reason) for gap in gaps]
    return "## Missing or unreadable\n\n" + markdown_table(["run", "consequence", "reason"], rows)


def _checks(judged: list[Judged]) -> str:
    """Return the table of what the validation of each run found."""
    header = """run|verdict|layers checked / expected|weights compared|violations|largest pruned weight (tolerance)
        |sparsity expected / found|outside tensors changed / checked|train-merge gap, loss / metric|chain"""
    rows = []
    for each in judged:
        record = each.record
        report = record.validation
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
                _chain(each.chain),
            ]
        )
    return markdown_table([name.strip() for name in header.split("|")], rows)


def _chain(followed: list[Link]) -> str:
    """Return how many links of a chain hold, and which are broken."""
    broken = [link.name for link in followed if link.fault]
    holding = f"{len(followed) - len(broken)} of {len(followed)}"
    return f"{holding}, BROKEN: {', '.join(broken)}" if broken else holding


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
