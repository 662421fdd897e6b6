"""Check evaluation.json and before_merge.json: how a model scored after its merge, and before it."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from sparseft.analysis.records import recompute
from sparseft.analysis.records.answered_part import EVIDENCE, AnsweredPart
from sparseft.analysis.records.merge_record import files_digest
from sparseft.analysis.records.probe_record import ProbeRecord
from sparseft.analysis.records.record_file import (
    Count,
    CountArray,
    Fraction,
    Loss,
    LossArray,
    Positive,
    PositiveCount,
    RecordFile,
    RecordPart,
)
from sparseft.tasks.scoring import ratio_error
from sparseft.tasks.wikitext2 import PREFIXES, TEXT_SHA256, WIKITEXT2


class ScoredRecord(RecordFile, AnsweredPart):
    """Check the result of a model on the validation set of its task.

    Beside the answers it has by example, (examples,): the `losses` of the right answer in nats, and its `answer_tokens`. Older
    evaluations have no `peak_memory_bytes`."""

    ROWS: ClassVar[tuple[str, ...]] = ("outcomes", "losses", "answer_tokens", *EVIDENCE)
    task: str
    eval_loss: Loss
    losses: LossArray
    answer_tokens: CountArray
    dtype: str
    prompt_sha256: str
    distinct_prompts: PositiveCount
    loss_few_shot: Count
    seconds: Positive
    peak_memory_bytes: PositiveCount | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the rows, and more distinct prompts than examples."""
        yield from super().contradictions()
        if self.distinct_prompts > self.examples:
            yield f"{self.distinct_prompts} distinct prompts of {self.examples} examples"

    def row_contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the rows, all of which have the right length."""
        yield from recompute.contradictions(self)


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
    `probes` has the results on further tasks by their names. `overlap` is the share of the examples that the model has seen
    (tasks/overlap.py). Older evaluations have none."""

    file_name: ClassVar[str] = "evaluation.json"
    overlap: Fraction | None = None
    perplexity_overlap: Fraction | None = None
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
    def probe_overlaps(self) -> dict[str, float | None]:
        """Return the overlap of each probe by the name of its column."""
        return {f"probe_{name}_overlap": probe.overlap for name, probe in self.probes.items()}

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
        """Yield also the perplexities that are not named after their text."""
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
