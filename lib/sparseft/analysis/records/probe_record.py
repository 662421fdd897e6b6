"""Check what an evaluation says of a probe: a task on which a merged model is evaluated, but not trained."""

from sparseft.analysis.records.answered_part import AnsweredPart
from sparseft.analysis.records.record_file import Fraction


class ProbeRecord(AnsweredPart):
    """Check the result of a model on the probe's rows with `data_sha256`. Worked examples come from those with `train_sha256`."""

    data_sha256: str
    train_sha256: str
    overlap: Fraction | None = None

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
