"""The sections that say how a training, a reconstruction and a measurement of the speed run, and on what."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from sparseft.axes.grid import TASK_MODES
from sparseft.axes.methods import TEXT_NAME
from sparseft.axes.modes import get_mode
from sparseft.common.errors import InputError
from sparseft.common.section import Count, Faults, LearningRate, Length, Positive, Section, Small, refuse
from sparseft.training.lora.settings import Adapters

if TYPE_CHECKING:
    from sparseft.models.language_model.batches import Example

# What no measurement and no reconstruction has: each is one training by itself, without a teacher or an evaluation.
ALONE = {"recover_on": None, "distillation": None, "eval_every": 0}
# The keys that the section `throughput` decides for a measurement, and `reconstruction` for each decoder layer.
MEASURED_KEYS = {"steps", "batch_size", "micro_batch_size", "save_every", *ALONE}
# What changes no result of a reconstruction, which keeps one layer in memory.
_WHOLE_MODEL = {"cache_weights": False, "gradient_checkpointing": False}
LAYERED_KEYS = {"steps", "batch_size", "micro_batch_size", "learning_rate", *_WHOLE_MODEL, *ALONE}
# The most examples of a forward pass, unless the user sets another number.
MICRO_BATCH = 8


class Distillation(Section):
    """Set how a training also learns the next-token probabilities of the dense model, its teacher.

    The loss is (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student), a mean over the answer
    tokens. Both probabilities of the divergence are softmax(logits / temperature). The gradient of the divergence
    shrinks as 1 / temperature^2, which the factor makes good (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section
    2)."""

    weight: float = Field(0.5, ge=0, le=1)
    """Share of the divergence in the loss. The rest is that of the cross-entropy with the answers."""
    temperature: float = Field(2.0, gt=0, le=1000)
    """What the logits of both models are divided by. A high one also teaches the unlikely tokens."""


def micro_batch(batch_size: int, largest: int = MICRO_BATCH) -> int:
    """Return the largest divisor of a batch size that is not above `largest`."""
    return max(size for size in range(1, largest + 1) if batch_size % size == 0)


class FullWeights(Section):
    """Set what only the modes have that train the weights themselves."""

    full_learning_rate: LearningRate = 1e-4
    """Peak learning rate of the modes that train the weights themselves. They need a lower one than adapters."""
    train: list[Literal["norms", "biases", "embeddings"]] = Field([], examples=[["norms", "embeddings"]])
    """What the `full_` modes also train, beside the kept weights of the prunable matrices."""


class Effort(Section):
    """Set what changes the time or the memory of a training, and no bit of its result."""

    cache_weights: bool = False
    """Keep the masked weights over the micro-batches of a step: faster, with memory for a second model."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them. This needs less memory and is a third slower."""
    save_every: Count = 50
    """Steps between two saved states, from which a killed run continues. If it is 0, none is saved."""


class Training(Adapters, FullWeights, Effort):
    """Set the training schedule: one for all modes, so that their results can be compared.

    A key that you set here replaces the suggestion of a mini task. `tasks.NAME.training` replaces both."""

    steps: Positive = 60
    """Optimiser steps, over which warm-up and decay extend. Each mini task suggests its own number."""
    batch_size: Small = 8
    """Examples per optimiser step."""
    micro_batch_size: Positive = Field(
        # A wrong batch_size is not in `keys`.
        default_factory=lambda keys: micro_batch(keys.get("batch_size", MICRO_BATCH)),
        json_schema_extra={"default": MICRO_BATCH},
    )
    """Examples per forward pass. Must divide batch_size. A smaller value needs less memory. If you set batch_size only,
    this is its largest divisor up to the value that would hold otherwise."""
    learning_rate: LearningRate = 1e-3
    """Peak learning rate of AdamW. Each mini task suggests its own."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the steps, rounded to whole ones, until the learning rate is at its peak. 0 starts at the peak."""
    lr_scheduler_type: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls from its peak to 0 at the last step. Name and values are those of transformers."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled down to this norm."""
    recover_on: str | None = Field(None, examples=["my_text"])
    """A task of kind `text`, one of `grid.tasks`, on which every run is trained before its own task: its training
    starts from what that one left, with a schedule of its own. Null: it starts from the pruned model."""
    train_on_inputs: bool = False
    """Take the loss of a training example on every token but the first, and not only on its answer. Evaluation losses
    are always on the answers. The name is that of Alpaca-LoRA and of Shears."""
    distillation: Distillation | None = Field(None, examples=[{"weight": 0.5, "temperature": 2.0}])
    """Learn from the dense model too. Null means that the loss is only the cross-entropy. Only the backend torch has
    it. A reconstruction does not use it."""
    shard_model: bool = False
    """Divide the weights among the processes (FSDP). A single process keeps them in the machine's memory, and copies a
    decoder layer at a time to the GPU. Needs `cache_weights: false`."""
    length_buckets: Positive = 8
    """Number of batches whose examples are sorted by length together, so that there is less padding. 1 turns it off."""
    eval_every: Count = 0
    """Steps between two evaluation losses, with the backend torch. If it is 0, only the end is evaluated."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the schedule, and whether it is."""
        return {
            f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}: leave it out": (
                self.batch_size % self.micro_batch_size
            ),
            "shard_model keeps no masked weights: set cache_weights or shard_model to false": (
                self.shard_model and self.cache_weights
            ),
        }

    def batches(self, examples: list["Example"], seed: int) -> Iterator[list["Example"]]:
        """Yield the batches of a training on some examples, without end."""
        from sparseft.models.language_model.batches import shuffled

        return shuffled(examples, self.batch_size, self.length_buckets, seed)

    @property
    def steps_to_peak(self) -> int:
        """Return the number of warm-up steps, of which the first has learning rate 0."""
        return round(self.warmup_fraction * self.steps)

    @property
    def updates(self) -> int:
        """Return how many steps have a learning rate above 0: all but the first of a warm-up. A step at 0 changes no
        parameter."""
        return self.steps - min(1, self.steps_to_peak)

    @classmethod
    def unused_in(cls, mode: str) -> set[str]:
        """Return the keys that a training in a mode does not have."""
        return {"learning_rate", *Adapters.model_fields} if get_mode(mode).is_full else set(FullWeights.model_fields)

    def in_mode(self, mode: str) -> Self:
        """Return the schedule of a training in a mode: one of the weights has its own learning rate.

        Raises InputError if a key was set that it does not have."""
        if unused := sorted(self.model_fields_set & self.unused_in(mode)):
            raise InputError(f"--{unused[0]}: a training in mode {mode} has none", "leave it out")
        own = {"learning_rate": self.full_learning_rate} if get_mode(mode).is_full else {}
        return self.model_copy(update=own)

    def check(self, mode: str, projections: set[str]) -> None:
        """Raise InputError if these settings cannot train in `mode`, or cannot train a model with these projections."""
        described = get_mode(mode)
        leave = f"or leave {mode} out of grid.modes"
        targets = ", ".join(self.lora_targets)
        adapter_faults = {
            f"training.lora_dropout {self.lora_dropout}: in {mode} the adapter has no input of its own; set it"
            f" to 0, {leave}": (self.lora_dropout and described.masks_every_step),
            f"training.shard_model: {mode} needs the whole model in one process; set it to false, {leave}": (
                self.shard_model and described.reconstructs
            ),
            f"training.lora_targets: the model has none of {targets}; choose from {', '.join(sorted(projections))}": (
                self.lora_targets and not projections & set(self.lora_targets)
            ),
        }
        start = described.starts_from
        fault = f"training.recover_on {self.recover_on}: {mode} starts from {start}; set it to null, {leave}"
        refuse({fault: self.recover_on and start, **({} if described.is_full else adapter_faults)})

    def trains(self, name: str, is_prunable: bool) -> bool:
        """Return whether a full training changes the tensor `name`, which may be that of a prunable layer."""
        module = name.rpartition(".")[0].rpartition(".")[2]
        kinds = {
            "biases": name.endswith(".bias"),
            "norms": module.endswith("norm") and name.endswith(".weight"),
            "embeddings": module in ("embed_tokens", "lm_head"),
        }
        return is_prunable or any(kinds[kind] for kind in self.train)

    def check_processes(self, processes: int, mode: str) -> None:
        """Raise InputError if `processes` processes cannot share a training."""
        micro_batches = self.batch_size // self.micro_batch_size
        is_divided = self.shard_model or processes == 1 or not get_mode(mode).is_full
        refuse(
            {
                f"resources.processes: {processes} processes would each hold all weights that {mode} trains;"
                " set training.shard_model to true, which divides them and AdamW's moments": not is_divided,
                f"resources.processes: {processes} processes cannot share {micro_batches} micro-batches per step;"
                " set training.micro_batch_size to batch_size / (a multiple of the processes)": micro_batches
                % processes,
            }
        )


def laid_over(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the layers of a schedule. Each layer lies over those before it.

    A layer that sets only batch_size shrinks a micro_batch_size below it that does not divide it."""
    keys: dict[str, Any] = {}
    follows = False
    for layer in layers:
        keys |= layer
        follows = (follows or "batch_size" in layer) and "micro_batch_size" not in layer
    # The numbers may be texts, and wrong ones are refused with the other keys.
    sizes = [str(keys.get(name, 0)) for name in ("batch_size", "micro_batch_size")]
    if follows and all(size.isdecimal() and int(size) for size in sizes):
        keys["micro_batch_size"] = micro_batch(*map(int, sizes))
    return keys


# The keys that not every mode has.
PARTIAL = {*Adapters.model_fields, *FullWeights.model_fields}


class Reconstruction(Section):
    """Set how the mode reconstruct trains the adapters of each decoder layer. The other settings are those of
    `training:`."""

    calibration: str | None = Field(None, pattern=f"^{TEXT_NAME}$", examples=["c4"])
    """Text on which the layers are reconstructed, by its name under `masks.calibration`, which sets the length and the
    seed of its windows. Null means training examples of the task, chosen by `masks.calibration_seed`."""
    examples: Positive = 128
    """Number of windows of the text, or of training examples."""
    steps: Positive = 100
    """Optimiser steps for each decoder layer. Warm-up and decay are tied to them."""
    batch_size: Small = 8
    """Examples per step. All of them are in one forward pass of one layer."""
    learning_rate: LearningRate = 1e-3
    """Peak learning rate of AdamW."""

    def schedule(self, training: Training) -> Training:
        """Return the schedule of each decoder layer."""
        own = self.model_dump(exclude={"calibration", "examples"})
        return training.model_copy(update=own | _WHOLE_MODEL | ALONE | {"micro_batch_size": self.batch_size})


class Narrowed(Section):
    """Narrow the grid to some of its values."""

    methods: list[str] = Field([])
    """Some of grid.methods. If the list is empty, all of them."""
    sparsities: list[int] = Field([])
    """Some of grid.sparsities, in percent. If the list is empty, all of them."""
    modes: list[Literal[TASK_MODES]] = Field([])  # type: ignore[valid-type]  # computed from the table
    """Some of grid.modes that train on the task. If the list is empty, all of them."""
    trainings: list[str] = Field([])
    """Some of the names in grid.trainings. If the list is empty, all of them."""


class Throughput(Narrowed):
    """Set what `snakemake throughput` measures: the speed of training against the batch size."""

    batch_sizes: list[Small] = Field([32, 64, 128, 256, 512], min_length=1)
    """Examples per step. All of them are in one forward pass."""
    sequence_length: Length | None = None
    """Tokens per example; examples are cut or repeated to it. Null keeps their own lengths."""
    warmup_steps: Count = 2
    """Training steps before the clock of a measurement starts."""
    steps: Positive = 5
    """Training steps that a measurement times."""
    repeats: Positive = 3
    """Measurements per batch size, each in a new process. The confidence interval is over them."""
    memory_mb: Positive = 2500
    """Private memory of a measurement on a CPU, in MB. A batch that needs more is recorded as out of memory."""

    def schedule(self, training: Training, batch_size: int) -> Training:
        """Return the schedule of a measurement of `batch_size`, without saved states."""
        sizes = {"batch_size": batch_size, "micro_batch_size": batch_size}
        return training.model_copy(update=sizes | ALONE | {"steps": self.warmup_steps + self.steps, "save_every": 0})
