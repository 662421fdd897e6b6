"""Define before_merge.json, evaluation.json and selection.json: how a model scored on the examples of a task.

Losses are in nats. The lists with a value per example have the order of the rows.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue

from sparseft.storage.fields import Count, Fraction, Loss, NonNegative, PositiveCount, field, setting
from sparseft.storage.record_file import RecordPart, RunRecord, kind
from sparseft.training.lora.merge_record import MergeInputs

LogLikelihood = Annotated[float, Field(le=0)]


class AnswersPart(RecordPart):
    """Hold the answers that a model gave to the examples of a task.

    A generated answer has no choices. A task whose metric is the loss has neither outcomes nor answers."""

    metric: str = setting("The name of the headline metric.", column=True)
    definition_sha256: str | None = setting("The task's definition. Null if built in.", default=None)
    value: NonNegative = field("The headline metric.", column=True)
    standard_error: NonNegative = field("Its standard error over the examples.", column=True)
    examples: PositiveCount = field("The number of examples.", column=True)
    chance: Fraction | None = field("The value of guessing. Null if the metric is the loss.", "fraction", column=True)
    few_shot: Count = setting("The few-shot examples before each question.")
    metrics: dict[str, float | None] = field("Every metric of the task, by name.")
    harness: str | None = setting("The version of lm-eval. Null if the metric is the loss.")
    prompt_sha256: str = field("The sha256 of all prompts.")
    generation_config: JsonValue = field("What the model sets for generated texts.", default=None)
    labels: list[Count] | list[str] | None = field("The right choice, or the right answer.", default=None)
    choice_lengths: list[list[PositiveCount]] | None = field("The characters of each choice.", default=None)
    log_likelihoods: list[list[LogLikelihood]] | None = field("That of each choice.", "nats", default=None)
    generations: list[str] | None = field("The generated text.", default=None)
    ties: Count | None = field("The examples in which several choices are the likeliest.", default=None)
    predictions: list[Count] | list[str] | None = field("The chosen choice, or the answer found.", default=None)
    outcomes: list[Fraction] | None = field("The headline metric of each example.", "fraction", default=None)
    scored_by: Literal["lm-eval"] | None = field("lm-eval, if only it has the task's filters.", default=None)

    # The lists with a value per example that say why an example counts as right.
    ANSWERS: ClassVar = ["labels", "choice_lengths", "log_likelihoods", "generations", "predictions"]

    def without_answers(self) -> Self:
        """Return the record without the answers, which would fill the memory for a whole study."""
        probes = {name: probe.without_answers() for name, probe in getattr(self, "probes", {}).items()}
        return self.model_copy(update=dict.fromkeys(self.ANSWERS) | ({"probes": probes} if probes else {}))


class ScoredRecord(AnswersPart, RunRecord):
    """Record the result of a model on rows of a task."""

    task: str = field("The task.")
    distinct_prompts: PositiveCount = field("The number of different prompts.")
    eval_loss: Loss = field("The sum of the losses divided by the answer tokens.", "nats per token", column=True)
    loss_few_shot: Count = setting("The few-shot examples before an answer whose loss is taken.")
    losses: list[Loss] = field("The loss of each right answer, over all its tokens.", "nats")
    answer_tokens: list[PositiveCount] = field("The tokens of each right answer.", "tokens")
    device: str = field("The device of the evaluation.")
    placement: dict[str, PositiveCount] | None = field(
        "How many decoder layers were on each device; disk: read from the files for every batch.", default=None
    )
    dtype: str = setting("The number format of the weights.")
    seconds: NonNegative = field("The time of the evaluation, without loading the model.", "s")
    peak_memory_bytes: PositiveCount = field("The largest memory of the process.", "bytes")


class ProbePart(AnswersPart):
    """Hold the result on a probe: a task on which a merged model is evaluated, but not trained."""

    data_sha256: str = setting("The sha256 of the probe's rows.")
    train_sha256: str = setting("The sha256 of the rows that few-shot examples come from.")
    overlap: Fraction = field("The share of the examples that the model has seen.", "fraction")


class EvaluationInputs(RecordPart):
    """Hold the digests of what was evaluated, and on what."""

    model: dict[str, str] = field("The sha256 of each file of the model.")
    data: str = field("The sha256 of the rows.")
    train: str = setting("The sha256 of the rows of the few-shot examples.")
    wikitext2: str | None = setting("The sha256 of the perplexity's text. Null without one.", default=None)
    divergence: str | None = setting("The sha256 of the divergence's text. Null without one.", default=None)
    calibration: list[str] | None = field("The sha256 of each text of a calibration.", default=None)


class MergedModelRecord(ScoredRecord):
    """Record the result of a merged model."""

    overlap: Fraction = field(
        "The share of the examples that the model has seen.", "fraction", column="validation_overlap"
    )


class EvaluationRecord(MergedModelRecord):
    """Record the result of a merged model on the validation rows."""

    file_name: ClassVar[str] = "evaluation.json"
    record: Literal["evaluation"] = kind("evaluation")
    perplexity_source: JsonValue = field("Where the perplexity's text comes from. Null if unknown.", default=None)
    perplexity_overlap: Fraction | None = field("The seen share of that text.", "fraction", column=True, default=None)
    divergence: float | None = field(
        "KL(dense, this model) on windows that the dense model samples.", "nats per token", column=True, default=None
    )
    divergence_standard_error: NonNegative | None = field(
        "Its standard error over the windows.", "nats per token", column=True, default=None
    )
    same_top_tokens: Fraction | None = field(
        "The share of their places with the same likeliest token.", "fraction", column=True, default=None
    )
    divergences: list[float] | None = field("The estimate of each window.", "nats per token", default=None)
    probes: dict[str, ProbePart] = field("The result on each probe, by its name.", default={})
    inputs: EvaluationInputs = field("The digests of what was evaluated.")


class SelectionInputs(EvaluationInputs):
    """Hold also the digest of the validation rows, which are not those that are evaluated."""

    validation: str = field("The sha256 of the validation rows.")


class SelectionRecord(MergedModelRecord):
    """Record the result on the selection rows, by which a study chooses among its trainings."""

    file_name: ClassVar[str] = "selection.json"
    record: Literal["selection"] = kind("selection")
    split: Literal["selection"] = field("The name of the rows.")
    inputs: SelectionInputs = field("The digests of what was evaluated.")


class BeforeMergeInputs(MergeInputs):
    """Hold the digests of what was evaluated before the merge, which are those of what is merged, and those of the
    rows."""

    data: str = field("The sha256 of the validation rows.")
    train: str = setting("The sha256 of the rows of the few-shot examples.")


class BeforeMergeRecord(ScoredRecord):
    """Record the result of a model as its training left it, on the same examples."""

    file_name: ClassVar[str] = "before_merge.json"
    record: Literal["before_merge"] = kind("before_merge")
    inputs: BeforeMergeInputs = field("The digests of what was evaluated.")
