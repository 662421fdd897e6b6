"""Check train.json: how a run was trained, how fast, and with what loss."""

import math
import statistics
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, Field

from sparseft.analysis.records.record_file import (
    ROUNDING,
    Count,
    Fraction,
    Loss,
    NonNegative,
    Positive,
    PositiveCount,
    RecordFile,
    RecordPart,
)
from sparseft.study.config import Training
from sparseft.training.progress import final_loss

# Keys of `training:` that leave every bit of the adapter as it is. The others decide it.
# A training that `stop_if_loss_above` ended is another one, and its record says so in `ended_early`.
WITHOUT_EFFECT = {
    "eval_every",
    "save_every",
    "cache_weights",
    "gradient_checkpointing",
    "stop_if_loss_above",
    "stop_if_after_steps",
}
DECIDING_KEYS = sorted(Training.model_fields.keys() - WITHOUT_EFFECT)


class Step(BaseModel):
    """Hold one step of the loss curve."""

    # Not a RecordPart, because a study has millions of steps, and a step by itself has no contradictions.
    model_config = RecordPart.model_config
    loss: NonNegative


class TrainingInputs(RecordPart):
    """Hold the sha256 of what the training read; `validation` is the set that eval_loss was measured on.

    `initial_adapter` is None if the training started from a new adapter."""

    model: str
    mask: str
    train: str
    validation: str
    initial_adapter: str | None = None


class TrainingOutputs(RecordPart):
    """Hold the digest of the adapter."""

    adapter: str


class LayerErrors(RecordPart):
    """Hold the mean squared errors of one decoder layer, before and after its reconstruction."""

    error_before: NonNegative
    error_after: NonNegative


class ReconstructionPart(RecordPart):
    """Hold the examples on which the decoder layers were reconstructed, and the errors of each layer.

    `length` and `text_sha256` are those of a text, and None if the examples are the task's."""

    examples: PositiveCount
    seed: Count
    length: PositiveCount | None = None
    text_sha256: str | None = None
    layers: Annotated[list[LayerErrors], Field(min_length=1)]

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the examples. Examples of the task have neither a length nor a text."""
        values = {"examples": self.examples, "seed": self.seed, "length": self.length, "text": self.text_sha256}
        return {f"reconstruction.{name}": value for name, value in values.items()}


class EarlyEnd(RecordPart):
    """Hold the last step of a training that ended early, the mean loss of the last steps, and the bound that it was above."""

    step: PositiveCount
    loss: Positive
    loss_above: Positive

    def contradictions(self) -> Iterator[str]:
        """Yield whether the loss was not above the bound."""
        if self.loss <= self.loss_above:
            yield f"ended early with the loss {self.loss:g}, which is not above {self.loss_above:g}"


class TrainingRecord(RecordFile):
    """Check train.json: the keys of `training:`, losses in nats per answer token, throughput without padding.

    In a `reconstruction` a step is that step of every decoder layer, and the losses of the steps are shares of the error before it.
    `updates` counts the steps whose learning rate was above 0. `ended_early` is None if all steps were taken. `cerebras` has what
    decides a training on Cerebras' backends. `definition_sha256` is None for a built-in task. `loss_curve` becomes the array of
    the losses, and `tokens` counts those of all steps."""

    file_name: ClassVar[str] = "train.json"
    definition_sha256: str | None = None
    steps: PositiveCount
    batch_size: PositiveCount
    micro_batch_size: PositiveCount | Literal["auto"]
    learning_rate: Positive
    warmup_fraction: Fraction
    weight_decay: NonNegative
    max_grad_norm: Positive
    lora_r: PositiveCount
    lora_alpha: Positive
    lora_dropout: Fraction
    lora_targets: list[str]
    gradient: str
    shard_model: bool
    length_buckets: PositiveCount
    gradient_checkpointing: bool
    cache_weights: bool
    backend: str
    device: str
    dtype: str
    cerebras: dict[str, int | str | None] | None = None
    processes: PositiveCount
    updates: Count
    ended_early: EarlyEnd | None = None
    train_examples: PositiveCount
    loss_curve: Annotated[list[Step], AfterValidator(lambda steps: np.array([step.loss for step in steps]))]
    final_loss: Loss
    eval_loss: Loss
    samples_per_second: Positive
    samples_per_second_overall: Positive
    tokens: PositiveCount
    tokens_per_second: Positive
    tokens_per_second_overall: Positive
    train_seconds: Positive
    peak_memory_bytes: PositiveCount
    trainable_parameters: PositiveCount
    reconstruction: ReconstructionPart | None = None
    versions: dict[str, str]
    inputs: TrainingInputs
    outputs: TrainingOutputs

    @property
    def steps_done(self) -> int:
        """Return the number of steps that were taken."""
        return self.ended_early.step if self.ended_early else self.steps

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the adapter, apart from the base, the mask and the seed."""
        schedule = {name: getattr(self, name) for name in DECIDING_KEYS}
        appliance = {f"cerebras.{name}": value for name, value in (self.cerebras or {}).items()}
        place = {"backend": self.backend, "dtype": self.dtype, "train.jsonl": self.inputs.train}
        definition = {"definition": self.definition_sha256} if self.definition_sha256 else {}
        examples = self.reconstruction.settings if self.reconstruction else {}
        return schedule | appliance | place | definition | examples

    @property
    def digests(self) -> dict[str, str]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "base": self.inputs.model,
            "mask": self.inputs.mask,
            "adapter": self.outputs.adapter,
            "data": self.inputs.validation,
            "train": self.inputs.train,
            "definition": self.definition_sha256,
            "start": self.inputs.initial_adapter,
        }

    @property
    def final_task_loss(self) -> float | None:
        """Return the loss at the end of a training on the task; None of a reconstruction, whose loss is another one."""
        return None if self.reconstruction else self.final_loss

    @property
    def reconstruction_error(self) -> float | None:
        """Return the mean over the decoder layers of the error after as a share of that before; None of a training.

        It is None too if no layer had an error, because its mask prunes nothing."""
        layers = self.reconstruction.layers if self.reconstruction else []
        shares = [layer.error_after / layer.error_before for layer in layers if layer.error_before]
        return statistics.fmean(shares) if shares else None

    @property
    def fixed_micro_batch_size(self) -> int | None:
        """Return the examples per forward pass; None if the CS-3 chose them."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else None

    @property
    def target_names(self) -> str:
        """Return the projections with an adapter, separated by spaces, or `all`."""
        return " ".join(self.lora_targets) or "all"

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong with the counts, the losses, and the time that the steps took."""
        if self.ended_early and self.ended_early.step >= self.steps:
            yield f"ended early at step {self.ended_early.step} of {self.steps}"
        if len(self.loss_curve) != self.steps_done:
            yield f"{len(self.loss_curve)} losses of {self.steps_done} steps"
        elif not math.isclose(self.final_loss, expected := final_loss(self.loss_curve), rel_tol=ROUNDING):
            yield f"final_loss {self.final_loss:g} is not that of loss_curve, {expected:g}"
        if self.updates > self.steps_done:
            yield f"{self.updates} updates in {self.steps_done} steps"
        for count, name, rate in (
            (self.steps_done * self.batch_size, "samples", self.samples_per_second_overall),
            (self.tokens, "tokens", self.tokens_per_second_overall),
        ):
            if not math.isclose(rate * self.train_seconds, count, rel_tol=ROUNDING):
                yield f"{count} {name} in {self.train_seconds:g} s are not {rate:g} per second"
