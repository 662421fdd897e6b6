"""Judge each run: its faults, its open checks, and whether it belongs to the study.

The files of a run were checked when they were read (records/). Here each run gets its verdict, once: the validation's own
result, the chain of hashes, the right answers, and what the run shares with others of its setting.
"""

from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass

from sparseft.analysis.chain import Link, links, selection_strangers, start_of, strangers, unchecked
from sparseft.analysis.records import Record
from sparseft.analysis.settings import by_setting
from sparseft.study.grid import Run


@dataclass(frozen=True)
class Judged:
    """Hold one run with the links of its chain, and with the texts of its faults and open checks.

    `outside` says why the run does not belong to the study. It is None if the run belongs to it."""

    record: Record
    chain: list[Link]
    faults: list[str]
    unchecked: list[str]
    outside: str | None = None

    @property
    def ended_early(self) -> str | None:
        """Return how the run's training ended early, as a sentence without a full stop; None if it took all of its steps."""
        train = self.record.train
        if train is None or train.ended_early is None:
            return None
        end = train.ended_early
        return (
            f"ended at step {end.step} of {train.steps}, because the mean loss of the last steps was {end.loss:.3g}, above"
            f" training.stop_if_loss_above {end.loss_above:g}"
        )

    @property
    def supports_results(self) -> bool:
        """Return whether the run may take part in a mean that is judged, a comparison or a choice."""
        return not self.faults and not self.ended_early

    @property
    def verdict(self) -> str:
        """Return the word of the memo. A run is sound if it has no fault, its training took all steps and every check was made."""
        if self.faults:
            return "FAULT"
        if self.ended_early:
            return "ENDED EARLY"
        return "NOT FULLY CHECKED" if self.unchecked else "sound"

    @property
    def in_study(self) -> bool:
        """Return whether the run belongs to the study."""
        return self.outside is None

    @property
    def fault_count(self) -> int:
        """Return the number of faults."""
        return len(self.faults)

    @property
    def unchecked_count(self) -> int:
        """Return the number of checks that could not be made."""
        return len(self.unchecked)


def judge_runs(records: list[Record], outside: dict[Run, str] | None = None) -> list[Judged]:
    """Return every run with its faults: failed validations first, then other faults, then the runs without a fault.

    `outside` has the reasons of the runs that do not belong to the study; conflicts are searched among the others."""
    outside = outside or {}
    chains = {record.run: links(record) for record in records}
    conflicts = _conflicts([record for record in records if record.run not in outside], chains)
    judged = [
        Judged(
            record,
            chains[record.run],
            faults(record, chains[record.run]) + conflicts[record.run],
            unchecked(record) + _unknown_start(record.run, chains),
            outside.get(record.run),
        )
        for record in records
    ]
    return sorted(judged, key=lambda run: (run.record.validation.passed, not run.faults))


def _unknown_start(run: Run, known: Container[Run]) -> list[str]:
    """Return that the run from which a run starts could not be read; nothing if there is none, or if it is known."""
    start = start_of(run)
    return [] if start is None or start in known else [f"{start.id}, from which it starts, could not be read"]


def faults(record: Record, chain: list[Link]) -> list[str]:
    """Return the faults of a run that its own files show; empty if there is none."""
    broken = [f"broken chain, {link.fault}" for link in chain if link.fault]
    wrong_answers = [record.right_answers.fault] if record.right_answers.fault else []
    wrong_answers += [f"probe {name}: {check.fault}" for name, check in record.probe_rows.items() if check.fault]
    wrong_answers += [f"selection rows: {record.selection_rows.fault}"] if record.selection_rows.fault else []
    return record.validation.faults(record.mask) + broken + wrong_answers


def _conflicts(records: list[Record], chains: Mapping[Run, list[Link]]) -> dict[Run, list[str]]:
    """Return the conflicts of each run with the other runs of its setting."""
    conflicts: dict[Run, list[str]] = defaultdict(list)
    found = [strangers(group, chains) for group in by_setting(records).values()]
    for reasons_of in [*found, selection_strangers(records)]:
        for run, reasons in reasons_of.items():
            sentences = [f"conflicts with other runs, {reason}" for reason in reasons]
            # A run that belongs to several settings may meet the same stranger in each.
            conflicts[run] += [sentence for sentence in sentences if sentence not in conflicts[run]]
    return conflicts
