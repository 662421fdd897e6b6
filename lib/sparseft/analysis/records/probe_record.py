"""Check what an evaluation says of a probe: a task that a merged model is evaluated on besides its own."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from sparseft.analysis.records import recompute
from sparseft.analysis.records.record_file import Count, Fraction, FractionArray, RecordPart


class ProbeRecord(RecordPart):
    """Check the result of a model on a probe. `outcomes` has a fraction per example, of which `value` is the mean.

    `definition_sha256` is None for a built-in task. Worked examples come from the rows with `train_sha256`."""

    metric: str
    value: Fraction
    standard_error: Fraction
    examples: Annotated[int, Field(gt=1, lt=2**63)]
    chance: Fraction | None = None
    metrics: dict[str, float | None]
    outcomes: FractionArray
    data_sha256: str
    train_sha256: str
    definition_sha256: str | None = None
    harness: str
    few_shot: Count

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the result, apart from the model."""
        named = {
            "metric": self.metric,
            "data": self.data_sha256,
            "definition": self.definition_sha256,
            "harness": self.harness,
            "few_shot": self.few_shot,
        }
        return named | ({"worked examples": self.train_sha256} if self.few_shot else {})

    def contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the outcomes."""
        if len(self.outcomes) != self.examples:
            yield f"{len(self.outcomes)} outcomes of {self.examples} examples"
        else:
            yield from recompute.mean_contradictions(self)
            yield from recompute.headline_contradictions(self)
