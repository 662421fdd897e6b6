"""Describe one training in the same way for every backend. The stage of a backend takes these steps:

run(*, flags: Flags[JobFlags])             take the flags that all backends share
job = job_of(flags, version=VERSION)       check the outputs, read and check all inputs
measured = ...                             train the job, and write its `output`
write_train_record(flags, job, measured)   write OUTPUT_DIR/train.json
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparseft.axes.grid import FULL_MODES, LORA_MODES, Run, start_of
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks.task import SPLITS, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.data.prepared import find_task, read_splits
from sparseft.models.checkpoints.checkpoint import Checkpoint, read_header, small_files
from sparseft.models.checkpoints.checkpoint import Tensor as StoredTensor
from sparseft.models.checkpoints.trained_weights import TrainedCheckpoint, write_weights
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.weights import TORCH_DTYPES
from sparseft.pruning.masks.mask_file import Mask, count_kept, read_checked_mask
from sparseft.storage.bits import BITS
from sparseft.storage.hashes import hash_files, sha256_of_text
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.storage.record import FILES_OF, TRAINED_BY_US, first_key, trained_digest, write_record_of
from sparseft.training.job_flags import JobFlags
from sparseft.training.lora.adapter import Adapter, read_trained, write_adapter
from sparseft.training.settings import Training
from sparseft.training.training_record import TrainingInputs, TrainingOutputs, TrainingRecord


@dataclass(frozen=True)
class TrainingJob:
    """Hold what one training trains: the run's model, mask, mode, seed, settings and examples."""

    checkpoint: Checkpoint
    mask: Mask
    mode: str
    seed: int
    settings: Training
    task: Task
    # The examples by split: train, and validation if the training is evaluated.
    rows: SplitRows
    # The evaluation after the merge uses the same size. With another size, the two losses would also differ by
    # rounding.
    evaluation_batch_size: int
    # The folder of the adapter or the trained weights.
    output: Path
    # Where the output comes from. It is written into it.
    provenance: dict
    # The output of an earlier training, if this one starts from it.
    initial: Adapter | TrainedCheckpoint | None = None
    # The model from which a distillation or a reconstruction learns.
    teacher: Checkpoint | None = None
    # Split -> the sha256 of the file from which its rows were read, for `write_train_record`.
    rows_sha256: dict[str, str] = field(default_factory=dict)

    # That of the stage that trains.
    version: int = 1

    def identity(self, data: dict[str, list[Example]], machine: list) -> str:
        """Return a digest of everything that decides the adapter's bits.

        A training must not continue from a saved state with another identity.

        data: the examples by split, as tokens
        machine: what else decides the bits, such as the number of threads"""
        settings = [self.settings.model_dump(), self.evaluation_batch_size, self.mode, self.seed]
        tokens = [[example.ids, example.answer_start] for split in sorted(data) for example in data[split]]
        # The tokens contain all that the task decides, and the provenance has the mask's digest. So the versions of
        # tasks and importances need not count.
        versions = [self.version, self.checkpoint.architecture.version, get_mode(self.mode).version]
        teacher = self.teacher.digest if self.teacher else None
        parts = [versions, machine, settings, self.provenance, teacher, self.checkpoint.config, tokens]
        return sha256_of_text(json.dumps(parts, sort_keys=True))

    @property
    def enforced(self) -> dict[str, np.ndarray]:
        """Return the mask's bits by layer; empty if the mode lifts the mask."""
        return {} if get_mode(self.mode).lifts_mask else self.mask.bits

    def write_adapter(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Write A (r, in) and B (out, r) of each layer as the output."""
        write_adapter(self.output, factors, self.settings, base=self.checkpoint.folder.name, sparseft=self.provenance)

    def write_weights(self, value_of: Callable[[str], Tensor]) -> None:
        """Write the tensors of a full training as the output, in the dtypes of the base. The mask's zeros are +0.0.

        value_of: name on disk -> the whole tensor

        Raises InputError if a value is not finite."""
        tensors = [self.checkpoint.tensors[name] for name in trained_names(self.checkpoint, self.mask, self.settings)]

        def bits_of(tensor: StoredTensor) -> np.ndarray:
            value, layer = value_of(tensor.name), tensor.name.removesuffix(".weight")
            if layer in self.enforced:
                value = value * torch.from_numpy(self.mask.kept(layer))
            # Adding 0 makes every zero +0.0.
            rounded = value.flatten().to(TORCH_DTYPES[tensor.dtype], copy=True).add_(0.0)
            return rounded.view(torch.uint8).numpy().view(BITS[tensor.dtype])

        write_weights(self.output, tensors, map(bits_of, tensors), self.provenance)


def trained_names(checkpoint: Checkpoint, mask: Mask, settings: Training) -> list[str]:
    """Return the tensors that a full training changes, in the order of the checkpoint."""
    return [name for name in checkpoint.tensors if settings.trains(name, name.removesuffix(".weight") in mask.bits)]


def job_of(
    flags: JobFlags,
    modes: tuple[str, ...] = LORA_MODES + FULL_MODES,
    initial_adapter: Path | None = None,
    dense_path: Path | None = None,
    *,
    version: int,
    evaluates: bool = False,
    inputs: Iterable[Path | None] = (),
) -> TrainingJob:
    """Read and check all inputs, and return the job. Raises InputError if one of them does not fit, or if
    the settings cannot train in the mode.

    Also raises it if the training would replace an input, or files that this program did not write.

    The validation rows are read only if the caller `evaluates`, or if training.eval_every says so.

    modes: those that the caller trains; by default all that learn the task from the pruned model
    initial_adapter: the output of an earlier training, if this one starts from it
    dense_path: the model that a distillation or a reconstruction learns from, if it is not the base
    version: that of the stage that trains
    inputs: what else the caller reads"""
    read = [flags.model_path, flags.mask_path, flags.data_dir, initial_adapter, dense_path, *inputs]
    check_apart([flags.output_dir], read)
    check_ours(flags.output_dir / "train.json", first_key("training"))
    run = Run.parse(flags.run_id)
    mode = get_mode(run.mode)
    if run.mode not in modes:
        raise InputError(f"{run.id} is not trained by this program", f"choose a run in mode {' or '.join(modes)}")
    output = flags.output_dir / mode.trains
    check_ours(output / FILES_OF[mode.trains][0], TRAINED_BY_US, output)
    task = find_task(flags.data_dir, run.task)
    task.check_trainable()
    checkpoint = Checkpoint(flags.model_path)
    mask, mask_sha256 = read_checked_mask(flags.mask_path, checkpoint, run)
    splits = SPLITS if evaluates or flags.training.eval_every else SPLITS[:1]
    rows, rows_sha256 = read_splits(flags.data_dir, task, splits)
    provenance = {
        "run_id": run.id,
        "mode": run.mode,
        "mask_sha256": mask_sha256,
        "base": checkpoint.digest,
        "stock_peft": mode.stock_peft,
    }
    settings = flags.training.in_mode(run.mode)
    settings.check(run.mode, {layer.rpartition(".")[2] for layer in mask.shape})
    initial = _initial(initial_adapter, run, settings, provenance, checkpoint)
    if initial:
        provenance["initial_adapter"] = initial.digest
    has_teacher = bool(settings.distillation) or mode.reconstructs
    if dense_path and not has_teacher:
        raise InputError("--dense_path: this training has no teacher", "leave it out, or set --distillation.weight")
    return TrainingJob(
        checkpoint=checkpoint,
        mask=mask,
        mode=run.mode,
        seed=run.seed,
        settings=settings,
        task=task,
        rows=rows,
        evaluation_batch_size=flags.evaluation_batch_size,
        output=output,
        provenance=provenance,
        initial=initial,
        teacher=_teacher(dense_path, checkpoint, mask, is_dense=mode.reconstructs) if has_teacher else None,
        rows_sha256=rows_sha256,
        version=version,
    )


def _initial(
    path: Path | None, run: Run, settings: Training, provenance: dict, checkpoint: Checkpoint
) -> Adapter | TrainedCheckpoint | None:
    """Return what a run starts from; None if it starts from the pruned model.

    Raises InputError if it is not that of the other run, with the same base, mask and LoRA settings."""
    start = start_of(run, settings.recover_on)
    if bool(start) != bool(path):
        what = f"{run.id} starts from {start.id if start else 'the pruned model'}"
        raise InputError(what, "give --initial_adapter only for a run that starts from another one")
    if not start or not path:
        return None
    origin = {key: provenance[key] for key in ("mask_sha256", "base")}
    if not get_mode(run.mode).is_full:
        origin |= {"r": settings.lora_r, "lora_alpha": settings.lora_alpha}
    return read_trained(path, checkpoint, origin, start)


def _teacher(path: Path | None, base: Checkpoint, mask: Mask, *, is_dense: bool) -> Checkpoint:
    """Return the model that a training learns from: that in `path`, or the run's base.

    A base may have been pruned in several steps, so any model with the same tokens can be the teacher in `path`, unless
    `is_dense`. Otherwise it is the model that was pruned. Raises InputError if it is another model, such as a pruned
    base, or if its tokens are others."""
    teacher = Checkpoint(path) if path else base
    if is_dense or not path:
        wanted, fits = "the model that was pruned", teacher.digest == mask.meta.get("original", base.digest)
    else:
        wanted, fits = f"a model with the tokens of {base.folder}", _vocabulary(teacher) == _vocabulary(base)
    if not fits:
        raise InputError(f"{teacher.folder}: not {wanted}", "give it with --dense_path")
    return teacher


def _vocabulary(model: Checkpoint) -> tuple[int, dict[str, str]]:
    """Return the number of a model's tokens, and the sha256 of the files that say what they are."""
    files = [file for file in small_files(model.folder) if file.name in ("tokenizer.json", "tokenizer.model")]
    return model.config["vocab_size"], hash_files(files)


def write_train_record(flags: JobFlags, job: TrainingJob, measured: dict) -> None:
    """Write train.json beside the job's output: the settings, the measurements, and the digests of inputs and outputs.

    `job_of` computed the digests of the inputs when it read them."""
    inputs = TrainingInputs(
        model=job.checkpoint.digest,
        mask=job.provenance["mask_sha256"],
        initial_adapter=job.provenance.get("initial_adapter"),
        dense=job.teacher.digest if job.teacher else None,
        **job.rows_sha256,
    )
    (file,) = job.output.glob("*.safetensors")
    masks = {f"{layer}.weight": bits for layer, bits in job.enforced.items()}
    # The weights that the mask keeps at zero were not trained.
    numbers = [
        count_kept(masks[tensor.name]) if tensor.name in masks else math.prod(tensor.shape)
        for tensor in read_header(file)[1]
    ]
    content = {
        **job.settings.model_dump(),
        **dict.fromkeys(Training.unused_in(job.mode) - {"learning_rate"}),
        **{f"{split}_examples": len(rows) for split, rows in job.rows.items()},
        "updates": job.settings.updates,
        "definition_sha256": job.task.definition_sha256,
        "trainable_parameters": sum(numbers),
        **measured,
    }
    outputs = TrainingOutputs(adapter=trained_digest(job.output))
    record = TrainingRecord(run_id=flags.run_id, **content, inputs=inputs, outputs=outputs)
    write_record_of(job.output, flags.output_dir / "train.json", record.model_dump())
