"""Count the runs of an analysis by what is wrong with them."""

from collections.abc import Iterable
from dataclasses import dataclass

from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap


@dataclass(frozen=True)
class Counts:
    """Hold the numbers of runs: of all, and of those with a fault, with an open check, outside the study, or missing.

    `ended_early` counts the trainings that ended early."""

    runs: int
    faulty: int
    unchecked: int
    outside: int
    missing: int
    ended_early: int

    @property
    def text(self) -> str:
        """Return the numbers other than that of all runs, as a part of a sentence."""
        text = f"{self.faulty} with a fault, {self.unchecked} not fully checked, {self.missing} missing or unreadable"
        if self.ended_early:
            text += f", {self.ended_early} with a training that ended early"
        return f"{text}, {self.outside} outside the configured study" if self.outside else text


def count_runs(judged: list[Judged], gaps: Iterable[Gap]) -> Counts:
    """Return the numbers of the runs. `judged` is what judge_runs returns, and `gaps` has the missing runs."""
    return Counts(
        runs=len(judged),
        faulty=sum(bool(run.faults) for run in judged),
        unchecked=sum(bool(run.unchecked) for run in judged),
        outside=sum(run.outside is not None for run in judged),
        missing=sum(gap.left_out for gap in gaps),
        ended_early=sum(run.ended_early is not None for run in judged),
    )
