"""Define train.json: how a run was trained, how fast, and with what loss.

Losses are in nats per answer token. Speeds count no padding. In a reconstruction, a step is that step of every decoder
layer, and the losses of the steps are shares of the error before it.
"""

import statistics
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import create_model

from sparseft.storage.fields import Count, Keys, Loss, NonNegative, Positive, PositiveCount, field, setting
from sparseft.storage.record_file import Inputs, RecordPart, RunRecord, kind, section_fields
from sparseft.training.settings import PARTIAL, Effort, Training


class Step(RecordPart):
    """Hold one step of the loss curve."""

    step: PositiveCount = field("The number of the step.")
    loss: NonNegative = field("The mean loss of the step's examples before its update.", "nats per token")
    gradient_norm: NonNegative | None = field("The norm of the gradient. Null if unknown.", default=None)
    learning_rate: NonNegative | None = field("The learning rate. Null if unknown.", default=None)
    cross_entropy: NonNegative | None = field(
        "The cross-entropy, if the loss is that of a distillation.", "nats per token", default=None
    )
    divergence: NonNegative | None = field(
        "Its divergence from the dense model, at the temperature.", "nats per token", default=None
    )


class Evaluated(RecordPart):
    """Hold one evaluation during the training."""

    step: PositiveCount = field("The number of the last step before the evaluation.")
    eval_loss: Loss = field("The loss on the validation rows.", "nats per token")


class TrainingInputs(Inputs):
    """Hold the digests of what the training read."""

    train: str = setting("The sha256 of the training rows.")
    validation: str | None = field("The sha256 of the rows of the evaluations, if any.", default=None)
    initial_adapter: str | None = field("That which it started from, if any.", default=None)
    dense: str | None = setting("The digest of the dense model. Null if nothing is learnt from it.", default=None)


class TrainingOutputs(RecordPart):
    """Hold the digest of what the training wrote."""

    adapter: str = field("The digest of the adapter, or of the trained weights.")


class LayerErrors(RecordPart):
    """Hold the reconstruction of one decoder layer."""

    error_before: NonNegative = field("The mean squared error of the pruned layer.")
    error_after: NonNegative = field("The mean squared error after the reconstruction.")
    losses: list[NonNegative] = field("The loss of each step, as a share of error_before.", "fraction")
    seconds: NonNegative = field("The time of all steps.", "s")


class ReconstructionPart(RecordPart):
    """Hold on which examples the decoder layers were reconstructed, and how well."""

    examples: PositiveCount = setting("The number of examples.")
    seed: Count = setting("The seed that chose the examples.")
    length: PositiveCount | None = setting("Tokens per example. Null for the task's.", "tokens", default=None)
    choice: str | None = setting("How the windows were chosen. Null: shuffled.", default=None)
    text_sha256: str | None = setting("The sha256 of the text. Null if the examples are the task's.", default=None)
    tokens: PositiveCount = field("The tokens of all examples.", "tokens")
    resumed_after_layers: list[Count] = field("The decoder layers after which a killed training was resumed.")
    layers: list[LayerErrors] = field("The result of each decoder layer.", min_length=1)


# An evaluation during the training changes no step.
_KEYS = section_fields(Training, Training.model_fields, PARTIAL, {*Effort.model_fields, "eval_every"})
Scheduled = create_model("Scheduled", __base__=RunRecord, **_KEYS)


class TrainingRecord(Scheduled):
    """Record one training: the keys of `training:`, and what was measured."""

    file_name: ClassVar[str] = "train.json"
    record: Literal["training"] = kind("training")
    micro_batch_size: PositiveCount | Literal["auto"] = setting("Examples per forward pass. auto: the CS-3 chose them.")
    train_examples: PositiveCount = field("The number of training examples.")
    validation_examples: PositiveCount | None = field("The number of evaluated examples, if any.", default=None)
    definition_sha256: str | None = setting("The task's definition. Null if built in.", default=None)
    backend: str = setting("The backend that trained.")
    device: str = field("The device that trained.", column=True)
    processes: PositiveCount = field("The processes that shared every step.")
    dtype: str = setting("The number format of the weights.")
    cerebras: Keys | None = setting("The keys of `cerebras:`. Null on other backends.", default=None)
    compile_hash: str | None = field("The digest of the CS-3's program. Null elsewhere.", default=None)
    trainable_parameters: PositiveCount = field("The number of trained parameters.")
    updates: Count = field("The steps with a learning rate above 0. The others change nothing.")
    loss_curve: list[Step] = field("The loss of each step.")
    eval_curve: list[Evaluated] = field("The evaluations during the training.")
    final_loss: Loss = field("The mean loss of the last tenth of the steps.", "nats per token")
    eval_loss: Loss | None = field("The loss that the CS-3 evaluates, if so.", "nats per token", default=None)
    samples_per_second: Positive = field("The median speed after the first steps.", "samples/s", column=True)
    samples_per_second_overall: Positive = field("The speed of all steps.", "samples/s")
    tokens: PositiveCount = field("The tokens of all steps.", "tokens", column="training_tokens")
    tokens_per_second: Positive = field("The median speed after the first steps.", "tokens/s", column=True)
    tokens_per_second_overall: Positive = field("The speed of all steps.", "tokens/s")
    train_seconds: Positive = field("The time of all steps.", "s", column=True)
    peak_memory_bytes: PositiveCount = field("The largest memory of a process.", "bytes", column=True)
    resumed_after_steps: list[Count] = field("The steps after which a killed training was resumed.")
    reconstruction: ReconstructionPart | None = field("Null for a training on the task.", default=None)
    versions: dict[str, str] = field("The version of each package.")
    inputs: TrainingInputs = field("The digests of what the training read.")
    outputs: TrainingOutputs = field("The digest of what the training wrote.")

    @property
    def final_task_loss(self) -> float | None:
        """Return the cross-entropy at the end of a training on the task; None of a reconstruction, whose loss is
        another one."""
        if self.reconstruction:
            return None
        losses = [step.cross_entropy for step in self.loss_curve if step.cross_entropy is not None]
        return final_loss(losses) if losses else self.final_loss


def final_loss(losses: Sequence[float]) -> float:
    """Return the mean loss of the last tenth of the steps, at least of the last one."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])
