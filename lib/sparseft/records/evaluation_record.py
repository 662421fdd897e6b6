"""Define before_merge.json, evaluation.json and selection.json: how a model scored on the examples of a task.

Losses are in nats. The lists with a value per example have the order of the rows.
"""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from sparseft.records.merge_record import files_digest
from sparseft.records.record_file import (
    ROUNDING,
    Count,
    Fraction,
    Loss,
    NonNegative,
    Positive,
    PositiveCount,
    RecordPart,
    RunRecord,
    kind,
    measurement,
    provenance,
    setting,
)

LogLikelihood = Annotated[float, Field(le=0)]


class AnswersPart(RecordPart):
    """Hold the answers that a model gave to the examples of a task.

    A generated answer has no choices. A task whose metric is the loss has neither outcomes nor answers."""

    metric: str = setting("The name of the headline metric.")
    definition_sha256: str | None = setting(
        "The digest of the task's definition. Null if it is built in.", default=None
    )
    value: NonNegative = measurement("The headline metric.")
    standard_error: NonNegative = measurement("Its standard error over the examples.")
    examples: Annotated[int, Field(gt=1, lt=2**63)] = measurement("The number of examples.")
    chance: Fraction | None = measurement("The value of guessing. Null if the metric is the loss.", "fraction")
    few_shot: Count = setting("The worked examples before each question.")
    metrics: dict[str, float | None] = measurement("Every metric of the task, by name.")
    harness: str | None = setting("The version of lm-eval. Null if the metric is the loss.")
    prompt_sha256: str = provenance("The sha256 of all prompts.")
    generation_config: dict[str, JsonValue] | None = provenance(
        "What the model sets for generated texts. Null if none is generated.", default=None
    )
    labels: list[Count] | list[str] | None = measurement("The right choice, or the right answer.", default=None)
    choice_lengths: list[list[PositiveCount]] | None = measurement(
        "The length of each choice.", "characters", default=None
    )
    log_likelihoods: list[list[LogLikelihood]] | None = measurement(
        "The log-likelihood of each choice.", "nats", default=None
    )
    generations: list[str] | None = measurement("The generated text.", default=None)
    ties: Count | None = measurement("The examples in which several choices are the likeliest.", default=None)
    predictions: list[Count] | list[str] | None = measurement("The chosen choice, or the answer found.", default=None)
    outcomes: list[Fraction] | None = measurement("The headline metric of each example.", "fraction", default=None)
    scored_by: Literal["lm-eval"] | None = provenance(
        "lm-eval, if the outcomes come from filters that only it has.", default=None
    )

    # The lists with a value per example.
    ROWS: ClassVar[tuple[str, ...]] = (
        "labels",
        "choice_lengths",
        "log_likelihoods",
        "generations",
        "predictions",
        "outcomes",
    )

    def contradictions(self) -> Iterator[str]:
        """Yield the lists of another length than `examples`, and a value that is not the mean of the outcomes."""
        for name in self.ROWS:
            rows = getattr(self, name)
            if rows is not None and len(rows) != self.examples:
                yield f"{len(rows)} {name} of {self.examples} examples"
        if self.outcomes and not math.isclose(sum(self.outcomes), self.value * self.examples, rel_tol=ROUNDING):
            yield f"value {self.value:g} is not the mean of the outcomes"


class ScoredRecord(AnswersPart, RunRecord):
    """Record the result of a model on rows of a task."""

    ROWS: ClassVar[tuple[str, ...]] = (*AnswersPart.ROWS, "losses", "answer_tokens")
    task: str = provenance("The task.")
    distinct_prompts: PositiveCount = measurement("The number of different prompts.")
    eval_loss: Loss = measurement("The sum of the losses divided by the answer tokens.", "nats per answer token")
    loss_few_shot: Count = setting("The worked examples before an answer whose loss is taken.")
    losses: list[Loss] = measurement("The loss of each right answer, over all its tokens.", "nats")
    answer_tokens: list[PositiveCount] = measurement("The tokens of each right answer.", "tokens")
    device: str = provenance("The device of the evaluation.")
    dtype: str = setting("The number format of the weights.")
    seconds: Positive = measurement("The time of the evaluation.", "s")
    peak_memory_bytes: PositiveCount = measurement("The largest memory of the process.", "bytes")

    def contradictions(self) -> Iterator[str]:
        """Yield also an eval_loss that is not that of the losses."""
        yield from super().contradictions()
        if not math.isclose(sum(self.losses), self.eval_loss * sum(self.answer_tokens), rel_tol=ROUNDING):
            yield f"eval_loss {self.eval_loss:g} is not the losses divided by the answer tokens"
        if self.outcomes is None and self.value != self.eval_loss:
            yield f"value {self.value:g} is not eval_loss, {self.eval_loss:g}"


class ProbePart(AnswersPart):
    """Hold the result on a probe: a task on which a merged model is evaluated, but not trained."""

    data_sha256: str = setting("The sha256 of the probe's rows.")
    train_sha256: str = setting("The sha256 of the rows that worked examples come from.")
    overlap: Fraction = measurement("The share of the examples that the model has seen.", "fraction")


class EvaluationInputs(RecordPart):
    """Hold the digests of what was evaluated, and on what."""

    model: dict[str, str] = provenance("The sha256 of each file of the model.")
    data: str = provenance("The sha256 of the rows.")
    train: str = setting("The sha256 of the training rows, which worked examples come from.")
    wikitext2: str | None = setting("The sha256 of the perplexity's text. Null without one.", default=None)
    calibration: list[str] | None = provenance(
        "The sha256 of each text that calibrated the mask or the reconstruction. Null without one.", default=None
    )


class MergedModelRecord(ScoredRecord):
    """Record the result of a merged model."""

    overlap: Fraction = measurement("The share of the examples that the model has seen.", "fraction")

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "merged": files_digest(self.inputs.model),
            "data": self.inputs.data,
            "train": self.inputs.train,
            "definition": self.definition_sha256,
        }


class EvaluationRecord(MergedModelRecord):
    """Record the result of a merged model on the validation rows."""

    file_name: ClassVar[str] = "evaluation.json"
    record: Literal["evaluation"] = kind("evaluation")
    perplexity_source: JsonValue = provenance("Where the perplexity's text comes from. Null if unknown.", default=None)
    perplexity_overlap: Fraction | None = measurement(
        "The share of that text that the model has seen. Null without one.", "fraction", default=None
    )
    probes: dict[str, ProbePart] = measurement("The result on each probe, by its name.", default={})
    inputs: EvaluationInputs = provenance("The digests of what was evaluated.")


class SelectionInputs(EvaluationInputs):
    """Hold also the digest of the validation rows, which are not those that are evaluated."""

    validation: str = provenance("The sha256 of the validation rows.")


class SelectionRecord(MergedModelRecord):
    """Record the result on the selection rows, by which a study chooses among its trainings."""

    file_name: ClassVar[str] = "selection.json"
    record: Literal["selection"] = kind("selection")
    split: Literal["selection"] = provenance("The name of the rows.")
    inputs: SelectionInputs = provenance("The digests of what was evaluated.")


class BeforeMergeInputs(RecordPart):
    """Hold the digests of what was evaluated before the merge."""

    model: str = provenance("The digest of the base.")
    mask: str = provenance("The sha256 of the mask.")
    adapter: str = provenance("The digest of the adapter.")
    data: str = provenance("The sha256 of the validation rows.")
    train: str = setting("The sha256 of the training rows, which worked examples come from.")


class BeforeMergeRecord(ScoredRecord):
    """Record the result of a model as its training left it, on the same examples."""

    file_name: ClassVar[str] = "before_merge.json"
    record: Literal["before_merge"] = kind("before_merge")
    taken_from: Literal["evaluation.json"] | None = provenance(
        "evaluation.json, if the merge kept every bit, so that one evaluation serves both.", default=None
    )
    inputs: BeforeMergeInputs = provenance("The digests of what was evaluated.")

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "base": self.inputs.model,
            "mask": self.inputs.mask,
            "adapter": self.inputs.adapter,
            "data": self.inputs.data,
            "train": self.inputs.train,
            "definition": self.definition_sha256,
        }
