"""Check evaluation.json and before_merge.json: how a model scored after its merge, and before it."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sparseft.analysis.records import recompute
from sparseft.analysis.records.merge_record import files_digest
from sparseft.analysis.records.probe_record import ProbeRecord
from sparseft.analysis.records.record_file import (
    Count,
    CountArray,
    Fraction,
    FractionArray,
    LogLikelihood,
    Loss,
    LossArray,
    NonNegative,
    Positive,
    PositiveCount,
    RecordFile,
    RecordPart,
)
from sparseft.analysis.statistics import ratio_error
from sparseft.tasks.scoring import labels_digest
from sparseft.tasks.wikitext2 import PREFIXES, TEXT_SHA256, WIKITEXT2

# The rows that the numbers are computed from again. They are dropped once this is done.
EVIDENCE = ("predictions", "log_likelihoods", "labels", "choice_lengths", "generations")


class ScoredRecord(RecordFile):
    """Check the result of a model on the validation set. `metrics` has all metrics of its task by name.

    By example, (examples,): `outcomes` of the headline metric, `losses` of the right answer in nats, and its `answer_tokens`.
    The other rows are the evidence, from which every number is computed again. Then they are dropped, because those of a
    whole study would fill the memory. `rows_digest` remains, for right_answers.py. Older evaluations have no
    `peak_memory_bytes`. The lengths are in characters. A generated answer has no choices. A task whose metric is the loss has
    no outcomes, no harness, and only losses as rows. `definition_sha256` is None for a built-in task."""

    task: str
    metric: str
    definition_sha256: str | None = None
    value: NonNegative
    standard_error: NonNegative
    examples: Annotated[int, Field(gt=1, lt=2**63)]
    chance: Fraction | None
    eval_loss: Loss
    metrics: dict[str, float | None]
    outcomes: FractionArray | None = None
    losses: LossArray
    answer_tokens: CountArray
    predictions: list[Count] | list[str] | None = None
    labels: list[Count] | list[str] | None = None
    choice_lengths: list[list[PositiveCount]] | None = None
    log_likelihoods: list[list[LogLikelihood]] | None = None
    ties: Count | None = None
    generations: list[str] | None = None
    _rows_digest: str | None = PrivateAttr(None)
    _not_recomputed: str | None = PrivateAttr(None)
    harness: str | None
    dtype: str
    prompt_sha256: str
    distinct_prompts: PositiveCount
    few_shot: Count
    loss_few_shot: Count
    seconds: Positive
    peak_memory_bytes: PositiveCount | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield the lists of rows with another length, or, if there is none, what does not follow from the rows."""
        rows = {name: getattr(self, name) for name in ("outcomes", "losses", "answer_tokens", *EVIDENCE)}
        counts = {name: len(values) for name, values in rows.items() if values is not None}
        if set(counts.values()) == {self.examples}:
            yield from recompute.contradictions(self)
        for name, count in counts.items():
            if count != self.examples:
                yield f"{count} {name} of {self.examples} examples"

    @model_validator(mode="after")
    def _drop_evidence(self) -> Self:
        """Replace the evidence by its digest. Pydantic calls this after `_agrees`, which needs the evidence."""
        self._not_recomputed = recompute.not_recomputed(self)
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
        return self._not_recomputed


class EvaluationInputs(RecordPart):
    """Hold the sha256 of each file of the evaluated model, of the two sets, and of the text of a perplexity.

    Worked examples come from `train`."""

    model: dict[str, str]
    data: str
    train: str
    wikitext2: str | None = None


class EvaluationRecord(ScoredRecord):
    """Check evaluation.json: the merged model. Its perplexity is on the text whose sha256 is inputs.wikitext2.

    `few_shot` worked examples stand before a question that is answered, `loss_few_shot` before one whose loss is taken.
    `probes` has the results on further tasks by their names."""

    file_name: ClassVar[str] = "evaluation.json"
    train_overlap: Count
    device: str
    probes: dict[str, ProbeRecord] = Field(default_factory=dict)
    inputs: EvaluationInputs

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the result, apart from the model and the validation set."""
        named = {name: getattr(self, name) for name in ("dtype", "harness", "few_shot", "loss_few_shot")}
        if self.few_shot:
            named["worked examples"] = self.inputs.train
        if any(name.startswith(PREFIXES) for name in self.metrics):
            named["text"] = self.inputs.wikitext2
        if self.definition_sha256:
            named["definition"] = self.definition_sha256
        for probe, result in self.probes.items():
            named |= {f"probe {probe} {name}": value for name, value in result.settings.items()}
        return named

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "merged": files_digest(self.inputs.model),
            "data": self.inputs.data,
            "train": self.inputs.train,
            "definition": self.definition_sha256,
        }

    @property
    def probe_values(self) -> dict[str, float]:
        """Return the value of each probe by the name of its column."""
        return {f"probe_{name}": probe.value for name, probe in self.probes.items()}

    @property
    def probe_errors(self) -> dict[str, float]:
        """Return the standard error of each probe by the name of its column."""
        return {f"probe_{name}_stderr": probe.standard_error for name, probe in self.probes.items()}

    @property
    def probe_examples(self) -> dict[str, int]:
        """Return the number of examples of each probe by the name of its column."""
        return {f"probe_{name}_examples": probe.examples for name, probe in self.probes.items()}

    @property
    def eval_loss_standard_error(self) -> float:
        """Return the standard error of eval_loss over the examples, nats per answer token."""
        return ratio_error(self.losses, self.answer_tokens)

    @property
    def conditions(self) -> str:
        """Return in words with what the model was evaluated, and where."""
        return f"{self.harness or 'the loss'} in {self.dtype} on {self.device}"

    @property
    def repeated_prompts(self) -> float:
        """Return the share of the validation prompts that repeat another one."""
        return 1 - self.distinct_prompts / self.examples

    def contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the rows, and perplexities that are not named after their text."""
        yield from super().contradictions()
        text = self.inputs.wikitext2
        for name in self.metrics:
            if name.startswith(PREFIXES) and (text is None or name.startswith(WIKITEXT2) != (text == TEXT_SHA256)):
                yield f"metrics.{name} is not named after its text"


class BeforeMergeInputs(RecordPart):
    """Hold the digests of the base and of the adapter, and the sha256 of the mask and of the two sets."""

    model: str
    mask: str
    adapter: str
    data: str
    train: str


class BeforeMergeRecord(ScoredRecord):
    """Check before_merge.json: the model as its training left it, on the same examples.

    `taken_from` names evaluation.json if the merge kept every bit, so that one evaluation serves both."""

    file_name: ClassVar[str] = "before_merge.json"
    inputs: BeforeMergeInputs
    taken_from: Literal["evaluation.json"] | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "base": self.inputs.model,
            "mask": self.inputs.mask,
            "adapter": self.inputs.adapter,
            "data": self.inputs.data,
            "train": self.inputs.train,
            "definition": self.definition_sha256,
        }
