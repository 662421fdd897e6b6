"""Check the answers that a model gave to the examples of a task: the part that an evaluation and a probe have in common."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sparseft.analysis.records import recompute
from sparseft.analysis.records.record_file import (
    Count,
    Fraction,
    FractionArray,
    LogLikelihood,
    NonNegative,
    PositiveCount,
    RecordPart,
)
from sparseft.tasks.scoring import labels_digest

# The rows that the numbers are computed from again. They are dropped once this is done.
EVIDENCE = ("predictions", "log_likelihoods", "labels", "choice_lengths", "generations")


class AnsweredPart(RecordPart):
    """Check the result of a model on a set of examples. `metrics` has all metrics of the task by name.

    `outcomes` of the headline metric and the evidence have one value per example. Every number is computed again from the
    evidence. Then it is dropped, because the evidence of a whole study would fill the memory. `rows_digest` remains, for
    right_answers.py. The lengths are in characters. A generated answer has no choices. A task whose metric is the loss has
    neither outcomes nor evidence, and no harness. `definition_sha256` is None for a built-in task. `scored_by` is "lm-eval" if
    only lm-eval has the filters or functions that the outcomes come from."""

    ROWS: ClassVar[tuple[str, ...]] = ("outcomes", *EVIDENCE)
    metric: str
    definition_sha256: str | None = None
    value: NonNegative
    standard_error: NonNegative
    examples: Annotated[int, Field(gt=1, lt=2**63)]
    chance: Fraction | None
    metrics: dict[str, float | None]
    outcomes: FractionArray | None = None
    predictions: list[Count] | list[str] | None = None
    labels: list[Count] | list[str] | None = None
    choice_lengths: list[list[PositiveCount]] | None = None
    log_likelihoods: list[list[LogLikelihood]] | None = None
    ties: Count | None = None
    generations: list[str] | None = None
    scored_by: Literal["lm-eval"] | None = None
    harness: str | None
    few_shot: Count
    _rows_digest: str | None = PrivateAttr(None)

    def contradictions(self) -> Iterator[str]:
        """Yield the lists of rows with another length, or, if there is none, what does not follow from the rows."""
        rows = {name: getattr(self, name) for name in self.ROWS}
        counts = {name: len(values) for name, values in rows.items() if values is not None}
        if all(count == self.examples for count in counts.values()):
            yield from self.row_contradictions()
        for name, count in counts.items():
            if count != self.examples:
                yield f"{count} {name} of {self.examples} examples"

    def row_contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the rows, all of which have the right length."""
        yield from recompute.answer_contradictions(self)

    @model_validator(mode="after")
    def _drop_evidence(self) -> Self:
        """Replace the evidence by its digest. Pydantic calls this after `_agrees`, which needs the evidence."""
        if self.labels is not None:
            self._rows_digest = labels_digest(self.labels, self.choice_lengths)
        for name in EVIDENCE:
            # Not an assignment, which the frozen model refuses.
            self.__dict__[name] = None
        return self

    @property
    def rows_digest(self) -> str | None:
        """Return the digest of the right answers and choice lengths; None if the metric is the loss."""
        return self._rows_digest

    @property
    def not_recomputed(self) -> str | None:
        """Return in words what could not be computed again from the rows; None if everything was."""
        if self.scored_by is None:
            return None
        return f"{self.metric} of each example was not computed again, because only {self.scored_by} has the task's filters"
