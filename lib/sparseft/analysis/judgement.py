"""Judge each run: its faults, its open checks, and whether it belongs to the study."""

import math
from collections import defaultdict
from dataclasses import dataclass

from sparseft.analysis.chain import links, strangers, unchecked
from sparseft.analysis.recompute import NOT_CHECKED, ROUNDING
from sparseft.analysis.records import Record, Validation
from sparseft.analysis.settings import by_setting
from sparseft.study.grid import Run


@dataclass(frozen=True)
class Judged:
    """Hold one run with the texts of its faults and open checks.

    `outside` says why the run does not belong to the study. It is None if the run belongs to it."""

    record: Record
    faults: list[str]
    unchecked: list[str]
    outside: str | None = None

    @property
    def verdict(self) -> str:
        """Return the word of the memo. A run is sound if it has no fault and every check was made."""
        if self.faults:
            return "FAULT"
        return "NOT FULLY CHECKED" if self.unchecked else "sound"


def judge_runs(records: list[Record], outside: dict[Run, str] | None = None) -> list[Judged]:
    """Return every run with its faults: failed validations first, then other faults, then the runs without a fault.

    `outside` names the runs that do not belong to the study. They are not compared with other runs."""
    outside = outside or {}
    members = [record for record in records if record.run not in outside]
    apart = _strangers(members)
    judged = [
        Judged(
            record,
            [*faults(record), *(f"conflicts with other runs, {words}" for words in apart[record.run])],
            unchecked(record),
            outside.get(record.run),
        )
        for record in records
    ]
    return sorted(judged, key=lambda each: (each.record.validation.passed, not each.faults))


def faults(record: Record) -> list[str]:
    """Return the faults of a run that its own files show; empty if there is none."""
    found = _validation_faults(record.validation)
    found += [f"broken chain, {link.fault}" for link in links(record) if link.fault]
    if record.rows and not record.rows.startswith(NOT_CHECKED):
        found.append(record.rows)
    return found


def _strangers(records: list[Record]) -> dict[Run, list[str]]:
    """Return the conflicts of each run with the other runs of its setting."""
    found: dict[Run, list[str]] = defaultdict(list)
    for group in by_setting(records).values():
        for run, words in strangers(group).items():
            found[run] += [text for text in words if text not in found[run]]
    return found


def _validation_faults(report: Validation) -> list[str]:
    """Return the faults of a report that did not pass, or that says it passed although its numbers say otherwise."""
    layers = f"{report.layers_checked} of {report.layers_expected} layers checked"
    wrong = []
    if report.max_abs_violation > report.tolerance and not report.violations:
        wrong.append(f"0 violations, and the largest is {report.max_abs_violation:.3g}")
    if report.violations:
        wrong.append(f"{report.violations} weights violate the mask, the largest {report.max_abs_violation:.3g}")
    if report.layers_checked == 0 or report.layers_checked != report.layers_expected:
        wrong.append(layers)
    if report.mask_of_base is False:
        wrong.append("the mask was computed from another base")
    if report.tensors_outside_changed:
        wrong.append(f"changed outside the mask: {', '.join(report.tensors_outside_changed)}")
    rows = len(report.layers["layer"])
    violations = report.layers["violations"].sum()
    if (rows, violations) != (report.layers_checked, report.violations):
        wrong.append(f"its totals are not those of its {rows} layer rows with {violations} violations")
    for name, column in (("expected_sparsity", "pruned"), ("actual_sparsity", "zeros")):
        said = getattr(report, name)
        counted = report.layers[column].sum()
        if said is not None and not math.isclose(said * report.weights, counted, rel_tol=ROUNDING):
            wrong.append(f"its {name} {said:g} is not that of its layer rows, {counted:,} of {report.weights:,}")
    if not report.passed:
        return ["validation failed: " + ("; ".join(wrong) or f"{layers}, 0 violations")]
    return ["validation says passed, but: " + "; ".join(wrong)] if wrong else []
