"""Count the runs of an analysis by what is wrong with them."""

from collections.abc import Iterable
from dataclasses import dataclass

from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap


@dataclass(frozen=True)
class Counts:
    """Hold the numbers of runs: of all, and of those with a fault, with an open check, or missing.

    `ended_early` counts the trainings that ended early. A run outside the study supports no result, so it counts only in `runs`,
    `outside` and `outside_faulty`."""

    runs: int
    faulty: int
    unchecked: int
    outside: int
    outside_faulty: int
    missing: int
    ended_early: int

    @property
    def in_study(self) -> int:
        """Return the number of runs in the study."""
        return self.runs - self.outside

    @property
    def runs_text(self) -> str:
        """Return the number of all runs with its noun, such as `2 runs`."""
        return f"{self.runs:,} {'run' if self.runs == 1 else 'runs'}"

    @property
    def text(self) -> str:
        """Return the numbers other than that of all runs, as a part of a sentence."""
        text = f"{self.faulty} with a fault, {self.unchecked} not fully checked, {self.missing} missing or unreadable"
        if self.ended_early:
            text += f", {self.ended_early} with a training that ended early"
        if self.outside:
            text += f", {self.outside} outside the configured study"
        return f"{text}, {self.outside_faulty} of them with a fault" if self.outside_faulty else text


def count_runs(judged: list[Judged], gaps: Iterable[Gap]) -> Counts:
    """Return the numbers of the runs. `judged` is what judge_runs returns, and `gaps` has the missing runs."""
    study = [run for run in judged if run.outside is None]
    outside = [run for run in judged if run.outside is not None]
    return Counts(
        runs=len(judged),
        faulty=sum(bool(run.faults) for run in study),
        unchecked=sum(bool(run.unchecked) for run in study),
        outside=len(outside),
        outside_faulty=sum(bool(run.faults) for run in outside),
        missing=sum(gap.left_out for gap in gaps),
        ended_early=sum(run.ended_early is not None for run in study),
    )
