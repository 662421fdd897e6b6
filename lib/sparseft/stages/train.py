"""Train one run on the pruned weights: an adapter, or in a full_ mode the kept weights themselves.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) or weights/ (the trained tensors), and train.json: loss curve, speed, memory, hashes.
With --save_every a killed run continues from RUN_FOLDER/state.pt. With --distillation.weight it also learns from the
dense model, or from any model with the same tokens.
With --processes several processes share every step.
"""

import math
import os
from pathlib import Path
from typing import Any

from cyclopts.types import PositiveInt

from sparseft.axes.architectures.architecture import Shapes
from sparseft.axes.grid import RUN_ID, TASK_MODES, training_name
from sparseft.axes.modes import get_mode
from sparseft.common.command import Flags, Folder
from sparseft.study.config import Config
from sparseft.study.planning.needs import ADAM, Job, Needs, SizesOf, adapter_bytes, logit_bytes, loss_batch_bytes
from sparseft.study.planning.sizes import ModelSizes, task_lengths
from sparseft.training.job_flags import JobFlags
from sparseft.training.settings import Effort, Training


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the result of a training with any backend. Another number of threads changes the last
    bits."""
    training = training_name(wildcards.training)
    left_out = Training.unused_in(wildcards.mode) | set(Effort.model_fields)
    evaluates = config.evaluates(wildcards.mode, wildcards.task, training)
    return {
        "run_id": RUN_ID.format(**vars(wildcards)),
        "threads": config.resources.threads,
        "evaluation_batch_size": config.evaluation_batch_size if evaluates else None,
        **{
            key: value
            for key, value in config.schedule_of(wildcards.mode, wildcards.task, training)
            if key not in left_out
        },
    }


def effort(config: Config, wildcards: Any) -> dict:
    """Return what changes the time or the memory of a training, and no bit."""
    schedule = config.schedule_of(wildcards.mode, wildcards.task, training_name(wildcards.training))
    return schedule.model_dump(include=set(Effort.model_fields) - Training.unused_in(wildcards.mode))


# Raise it when the results change.
VERSION = 1
# Bytes per trained weight: as ADAM, with its mask, the rounded weight and a part of a gradient (counted for two decoder
# layers of a 7B: 20).
FULL = 20
# The same of a divided weight, without what FSDP2 gathers; and bytes per weight of a part whose gradients FSDP2 sums in
# fp32: what is sent and what comes back (foreach_reduce in its _fsdp_collectives.py).
DIVIDED, REDUCED = 17, 8
# How many times the logits a distillation has at most; counted (tests/study/planning/test_counted_memory.py).
DISTILLED = 3


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a training with any backend needs. Its steps are those of its task."""
    settings, lengths = config.training_of(job.task, job.training), task_lengths(config, job.task)
    is_full, resources = get_mode(job.mode).is_full, config.resources
    base = sizes_of(job.model)
    # A teacher is the model from which this one was pruned.
    model = sizes_of(config.original(job.model)) if settings.distillation else base
    device, machine = _trained_bytes(config, settings, model, is_full)
    if settings.cache_weights:
        device += model.width * model.prunable_weights
    if settings.distillation:
        # The decoder layers of the teacher of a divided model stay in their files, which all processes share.
        device += model.layer_and_outside if settings.shard_model else model.bytes
    activations = model.layers * model.activation_bytes
    if settings.gradient_checkpointing:
        # Every layer keeps its input, and one layer at a time computes its activations again.
        activations = model.layers * model.state + model.activation_bytes
    rows = settings.micro_batch_size * (lengths.long if settings.train_on_inputs else lengths.answer)
    # The activations of the teacher are gone when those of the training come.
    logits = (DISTILLED if settings.distillation else 1) * logit_bytes(model, rows)
    batch = settings.micro_batch_size * lengths.long * activations + logits
    losses = 0
    if settings.eval_every:
        batch, losses = max(batch, loss_batch_bytes(config, model, lengths)), settings.steps // settings.eval_every
    # A forward and a backward. The teacher has no backward.
    passes = 4 if settings.distillation else 3
    on_threads = is_full and settings.shard_model and resources.gpus == 1
    return Needs(
        model,
        device=device + batch,
        host=machine,
        tokens=(passes * settings.steps * settings.batch_size + losses * lengths.rows[1]) * lengths.mean,
        updates=settings.steps * model.trained_numbers(settings, is_full=True) if on_threads else 0,
        processes=resources.processes,
        kept={"trained weights": base.bytes} if is_full else {"adapters": 4 * base.trained_numbers(settings)},
        # The merged model, or the state from which a killed training continues.
        temporary=max(base.bytes, ADAM * base.weights) if is_full else base.bytes,
        appliance=config.training_backend.appliance,
    )


def _trained_bytes(config: Config, settings: Training, model: ModelSizes, is_full: bool) -> tuple[int, int]:
    """Return the bytes of the model, of what is trained and of W' and a gradient of a layer: on a device, and in the
    machine for a device."""
    numbers = model.trained_numbers(settings, is_full=is_full)
    trained = adapter_bytes(config, settings, model)
    if is_full:
        trained = FULL * numbers + 3 * model.width * model.largest_prunable
    if not settings.shard_model:
        return trained + model.bytes, 0
    divided, pinned = model.bytes, _pinned(model.width, model.shapes)
    if is_full:
        # A decoder layer, or what is trained outside of the prunable layers.
        part = max(model.prunable_weights // model.layers, numbers - model.prunable_weights)
        trained = (model.width + REDUCED) * part
        # The weights that are not trained are in fp32 too.
        divided = DIVIDED * numbers + 4 * (model.weights - numbers)
        # The moments and the mask are not pinned.
        pinned = _pinned(4, model.shapes) + _pinned(4, model.trained_shapes(settings)) + (DIVIDED - 8) * numbers
    # What is gathered is there twice: as it was received, and as tensors.
    gathered = 2 * model.layer_and_outside
    if config.resources.gpus == 1:
        return trained + gathered, pinned
    return trained + gathered + divided // config.resources.processes, 0


def _pinned(width: int, shapes: Shapes) -> int:
    """Return the bytes of tensors in pinned memory. torch rounds each up to a power of two (CachingHostAllocator.h)."""
    return sum(1 << (width * math.prod(shape) - 1).bit_length() for shape in shapes.values())


def run(
    *,
    flags: Flags[JobFlags],
    initial_adapter: Path | None = None,
    dense_path: Folder | None = None,
    processes: PositiveInt = 1,
) -> int:
    """Read the job, train it, and write its record.

    Args:
        initial_adapter: the folder adapter/ or weights/ of the training that this one continues: of reconstruct.py in
            mode reconstruct_to_sparse, of the run on --recover_on
        dense_path: the model that a distillation learns from, if it is not --model_path; it has the same tokens
        processes: processes that share every step, each with --threads; another number changes the last bits
    """
    from sparseft.models.language_model.hardware import keep_freed_memory, start

    start(flags.threads, flags.gpus)
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        from sparseft.training.processes import share

        return share(processes)
    from sparseft.training.job import job_of, write_train_record
    from sparseft.training.trainers.torch import hold_together, new_accelerator, train

    job = job_of(flags, TASK_MODES, initial_adapter, dense_path, version=VERSION)
    if job.settings.shard_model:
        keep_freed_memory(below=1 << 20)
    state = flags.output_dir / "state.pt"
    accelerator = new_accelerator()
    hold_together(job.output, accelerator)
    record = train(job, state, accelerator)
    if accelerator.is_main_process:
        write_train_record(flags, job, record)
        # The saved states, also those of a killed training in more processes. state.pt.backup would be the user's.
        for file in flags.output_dir.glob(f"{state.name}*"):
            if file == state or file.name.removeprefix(f"{state.name}.").isdecimal():
                file.unlink()
    accelerator.end_training()
    return 0
