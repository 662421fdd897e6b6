"""Check evaluation.json and before_merge.json: how a model scored after its merge, and before it."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sparseft.analysis.records import recompute
from sparseft.analysis.records.merge_record import files_digest
from sparseft.analysis.records.record_file import (
    Count,
    CountArray,
    Fraction,
    FractionArray,
    LogLikelihood,
    Loss,
    LossArray,
    Positive,
    PositiveCount,
    RecordFile,
    RecordPart,
)
from sparseft.tasks.scoring import labels_digest, ratio_error
from sparseft.tasks.wikitext2 import PREFIXES, TEXT_SHA256, WIKITEXT2

# The rows that the numbers are computed from again. They are dropped once this is done.
EVIDENCE = ("predictions", "log_likelihoods", "labels", "choice_lengths", "generations")


class ScoredRecord(RecordFile):
    """Check the result of a model on the validation set. `metrics` has all metrics of its task by name.

    By example, (examples,): `outcomes` of the headline metric, `losses` of the right answer in nats, and its `answer_tokens`.
    The other rows are the evidence, from which every number is computed again. Then they are dropped, because those of a
    whole study would fill the memory. `rows_digest` remains, for right_answers.py. Older evaluations have no
    `peak_memory_bytes`. The lengths are in characters. A generated answer has no choices."""

    task: str
    metric: str
    value: Fraction
    standard_error: Fraction
    examples: Annotated[int, Field(gt=1, lt=2**63)]
    chance: Fraction
    eval_loss: Loss
    metrics: dict[str, float | None]
    outcomes: FractionArray
    losses: LossArray
    answer_tokens: CountArray
    predictions: list[Count] | list[str]
    labels: list[Count] | list[str]
    choice_lengths: list[list[PositiveCount]] | None = None
    log_likelihoods: list[list[LogLikelihood]] | None = None
    ties: Count | None = None
    generations: list[str] | None = None
    _rows_digest: str = PrivateAttr("")
    harness: str
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
        self._rows_digest = labels_digest(self.labels, self.choice_lengths)
        for name in EVIDENCE:
            # Not an assignment, which the frozen model refuses.
            self.__dict__[name] = None
        return self

    @property
    def rows_digest(self) -> str:
        """Return the digest of the right answers and choice lengths."""
        return self._rows_digest


class EvaluationInputs(RecordPart):
    """Hold the sha256 of each file of the evaluated model, of the two sets, and of the text of a perplexity.

    Worked examples come from `train`."""

    model: dict[str, str]
    data: str
    train: str
    wikitext2: str | None = None


class EvaluationRecord(ScoredRecord):
    """Check evaluation.json: the merged model. Its perplexity is on the text whose sha256 is inputs.wikitext2.

    `few_shot` worked examples stand before a question that is answered, `loss_few_shot` before one whose loss is taken."""

    file_name: ClassVar[str] = "evaluation.json"
    train_overlap: Count
    device: str
    inputs: EvaluationInputs

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the result, apart from the model and the validation set."""
        named = {name: getattr(self, name) for name in ("dtype", "harness", "few_shot", "loss_few_shot")}
        if self.few_shot:
            named["worked examples"] = self.inputs.train
        if any(name.startswith(PREFIXES) for name in self.metrics):
            named["text"] = self.inputs.wikitext2
        return named

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        return {"merged": files_digest(self.inputs.model), "data": self.inputs.data, "train": self.inputs.train}

    @property
    def eval_loss_standard_error(self) -> float:
        """Return the standard error of eval_loss over the examples, nats per answer token."""
        return ratio_error(self.losses, self.answer_tokens)

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
        }
