"""The sections that say how a training, a reconstruction and a measurement of the speed run, and on what."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from sparseft.errors import InputError
from sparseft.methods import TEXT_NAME
from sparseft.modes import get_mode
from sparseft.study.grid import PROJECTIONS, TASK_MODES
from sparseft.study.section import Count, Faults, LearningRate, Length, Positive, Role, Section, Small, refuse

# The roles of a key whose value a measurement and a reconstruction decide. Neither is evaluated or has a teacher.
DECIDED = Role.MEASUREMENT | Role.LAYERS
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

    @property
    def factors(self) -> tuple[float, float]:
        """Return what the cross-entropy and the divergence are multiplied by in the loss."""
        return 1 - self.weight, self.weight * self.temperature**2


def micro_batch(batch_size: int, largest: int = MICRO_BATCH) -> int:
    """Return the largest divisor of a batch size that is not above `largest`."""
    return max(size for size in range(1, largest + 1) if batch_size % size == 0)


class Training(Section):
    """Set the training schedule: one for all modes, so that their results can be compared.

    A key that you set here replaces the suggestion of a mini task. `tasks.NAME.training` replaces both."""

    steps: Annotated[Positive, DECIDED] = 60
    """Optimiser steps, over which warm-up and decay extend. Each mini task suggests its own number."""
    batch_size: Annotated[Small, DECIDED] = 8
    """Examples per optimiser step."""
    micro_batch_size: Annotated[Positive, DECIDED] = Field(
        # A wrong batch_size is not in `keys`.
        default_factory=lambda keys: micro_batch(keys.get("batch_size", MICRO_BATCH)),
        json_schema_extra={"default": MICRO_BATCH},
    )
    """Examples per forward pass. Must divide batch_size. A smaller value needs less memory. If you set batch_size only,
    this is its largest divisor up to the value that would hold otherwise."""
    learning_rate: Annotated[LearningRate, Role.LAYERS] = 1e-3
    """Peak learning rate of AdamW. Each mini task suggests its own."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the steps, rounded to whole ones, until the learning rate is at its peak. 0 starts at the peak."""
    lr_scheduler_type: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls from its peak to 0 at the last step. Name and values are those of transformers."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled down to this norm."""
    full_learning_rate: Annotated[LearningRate, Role.FULL] = 1e-4
    """Peak learning rate of the modes that train the weights themselves. They need a lower one than adapters."""
    train: Annotated[list[Literal["norms", "biases", "embeddings"]], Role.FULL] = Field(
        [], examples=[["norms", "embeddings"]]
    )
    """What the `full_` modes train in addition to the kept weights of the prunable matrices."""
    recover_on: Annotated[str | None, Role.TORCH | DECIDED] = Field(None, examples=["my_text"])
    """A task of kind `text`, one of `grid.tasks`, on which every run is trained before its own task: its training
    starts from what that one left, with a schedule of its own. Null: it starts from the pruned model."""
    lora_r: Annotated[Small, Role.ADAPTER] = 8
    """Rank r of the adapters."""
    lora_alpha: Annotated[float, Role.ADAPTER] = Field(16.0, gt=0, lt=1e9)
    """The adapter's product B A is scaled by alpha / r."""
    lora_dropout: Annotated[float, Role.ADAPTER] = Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' input. Must be 0 unless sparse_to_dense is the only mode of the grid."""
    lora_targets: Annotated[list[Literal[PROJECTIONS]], Role.ADAPTER] = Field(  # type: ignore[valid-type]  # the architectures name them
        [], examples=[["q_proj", "v_proj"]]
    )
    """Projections that get an adapter. If the list is empty, all prunable projections get one."""
    train_on_inputs: bool = False
    """Take the loss of a training example on every token but the first, and not only on its answer. Evaluation losses
    are always on the answers. The name is that of Alpaca-LoRA and of Shears."""
    distillation: Annotated[Distillation | None, Role.TORCH | DECIDED] = Field(
        None, examples=[{"weight": 0.5, "temperature": 2.0}]
    )
    """Learn from the dense model too. Null means that the loss is only the cross-entropy. Only the backend torch has
    it. A reconstruction does not use it."""
    cache_weights: Annotated[bool, Role.SAVING | Role.TORCH | Role.LAYERS] = False
    """Keep the masked weights over the micro-batches of a step: faster, with memory for a second model."""
    gradient_checkpointing: Annotated[bool, Role.SAVING | Role.TORCH | Role.LAYERS] = False
    """Compute activations twice instead of keeping them. This needs less memory and is a third slower."""
    shard_model: Annotated[bool, Role.TORCH] = False
    """Divide the weights among the processes (FSDP). A single process keeps them in the machine's memory, and copies a
    decoder layer at a time to the GPU. Needs `cache_weights: false`."""
    length_buckets: Positive = 8
    """Number of batches whose examples are sorted by length together, so that there is less padding. 1 turns it off."""
    eval_every: Annotated[Count, Role.WATCHING | Role.TORCH | DECIDED] = 0
    """Steps between two evaluation losses, with the backend torch. If it is 0, only the end is evaluated."""
    save_every: Annotated[Count, Role.SAVING | Role.MEASUREMENT] = 50
    """Steps between two saved states, from which a killed run continues. If it is 0, none is saved."""

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

    @property
    def steps_to_peak(self) -> int:
        """Return the number of warm-up steps, of which the first has learning rate 0."""
        return round(self.warmup_fraction * self.steps)

    @property
    def updates(self) -> int:
        """Return how many steps have a learning rate above 0: all but the first of a warm-up. A step at 0 changes no
        parameter."""
        return self.steps - min(1, self.steps_to_peak)

    @property
    def lora_scale(self) -> float:
        """Return s = alpha / r."""
        return self.lora_alpha / self.lora_r

    @classmethod
    def unused_in(cls, mode: str) -> set[str]:
        """Return the keys that a training in a mode does not have."""
        is_full = get_mode(mode).is_full
        return {"learning_rate", *cls.keys_of(Role.ADAPTER)} if is_full else cls.keys_of(Role.FULL)

    def decided(self, role: Role, **values: Any) -> Self:
        """Return the schedule with other values. A key with this role that is not among them has its default."""
        defaults = {name: type(self).model_fields[name].default for name in self.keys_of(role)}
        return self.model_copy(update=defaults | values)

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

    def check_measured(self) -> None:
        """Raise InputError if the stage `throughput` cannot measure this training, because it measures one process."""
        otherwise = "or leave the stage throughput out"
        refuse(
            {
                "training.shard_model: throughput is measured with the whole model on one device; set it to false,"
                f" {otherwise}": self.shard_model,
                f"training.distillation: throughput is measured without a teacher; set it to null, {otherwise}": (
                    self.distillation
                ),
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
        own = self.model_dump(include=Training.keys_of(Role.LAYERS))
        return training.decided(Role.LAYERS, **own, micro_batch_size=self.batch_size)


class Throughput(Section):
    """Set what `snakemake throughput` measures: the speed of training against the batch size."""

    batch_sizes: list[Small] = Field([32, 64, 128, 256, 512], min_length=1)
    """Examples per step. All of them are in one forward pass."""
    methods: Annotated[list[str], Role.AXIS] = Field([])
    """Some of grid.methods. If the list is empty, all of them."""
    sparsities: Annotated[list[int], Role.AXIS] = Field([])
    """Some of grid.sparsities, in percent. If the list is empty, all of them."""
    modes: Annotated[list[Literal[TASK_MODES]], Role.AXIS] = Field([])  # type: ignore[valid-type]  # computed from the table
    """Some of grid.modes that train on the task. If the list is empty, all of them."""
    trainings: Annotated[list[str], Role.AXIS] = Field([])
    """Some of the names in grid.trainings. If the list is empty, all of them."""
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
        return training.decided(Role.MEASUREMENT, steps=self.warmup_steps + self.steps, save_every=0, **sizes)


class Resources(Section):
    """Set what one job needs: threads, processes, GPUs, memory and time."""

    threads: Positive = 1
    """CPU threads of a training, an evaluation or masks from examples. Another number changes the last bits."""
    processes: Positive = 1
    """Processes that share every step of a training (torchrun), one per GPU. Another number changes the last bits."""
    memory_mb: Positive | None = None
    """Memory that a job with the model requests from a cluster, in MB. Null means an estimate from the model's size.
    The second attempt requests twice as much, the third three times."""
    minutes: Positive | None = None
    """Time limit of such a job on a cluster, in minutes. Null and further attempts as for memory_mb."""
    gpus: Count = 0
    """GPUs of a training: 0, or as many as `processes`. A reconstruction or masks from examples use one of them."""
    gpu_memory_mb: Positive | None = Field(None, examples=[80_000])
    """Memory of one GPU, in MB. An evaluation uses as many of `gpus` as its weights need, and reads the decoder layers
    that fit on none from their files, for every batch. Null means one GPU, and what is free on it."""

    jobs_per_gpu: Positive = 1
    """Jobs that share a GPU of this machine, for small models. Each has an equal share of its memory. What measures a
    speed, `throughput` and `engines`, has a whole GPU."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the GPUs, and whether it is."""
        place = f"gpus {self.gpus}, processes {self.processes}"
        fault = f"{place}: each process uses one GPU; set gpus to {self.processes} or 0"
        shared = (
            f"jobs_per_gpu {self.jobs_per_gpu}: a training on several GPUs shares none; set jobs_per_gpu or gpus to 1"
        )
        return {fault: self.gpus not in (0, self.processes), shared: self.jobs_per_gpu > 1 and self.gpus > 1}
