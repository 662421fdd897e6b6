"""Describe one training in the same way for every backend. The script of a backend takes these steps:

add_job_flags(parser)                     define the flags that all backends share
check_outputs(args)                       refuse to replace files that this program did not write
job = job_of(args)                        read and check all inputs
measured = ...                            train the job, and write OUTPUT_DIR/adapter
write_train_record(args, job, measured)   write OUTPUT_DIR/train.json
"""

import argparse
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.lora.adapter import Adapter, read_adapter
from sparseft.masks.mask_file import Mask, check_mask, check_run, read_mask
from sparseft.modes import Mode, get_mode
from sparseft.records.training_record import TrainingRecord
from sparseft.storage.adapter_files import ADAPTER, adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.storage.ownership import check_apart, check_replaceable
from sparseft.storage.record import check_record, write_record_of
from sparseft.study.config import Training, add_flags
from sparseft.study.digests import code_digest
from sparseft.study.grid import NEW_ADAPTER_MODES, Run
from sparseft.study.section import parse_section
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.task import SPLITS, Row, Task


@dataclass(frozen=True)
class TrainingJob:
    """Hold what one training trains: the run's model, mask, mode, seed, settings and examples."""

    checkpoint: Checkpoint
    mask: Mask
    mode: str
    seed: int
    settings: Training
    task: Task
    # The examples by split: train and validation.
    rows: dict[str, list[Row]]
    # The evaluation after the merge uses the same size. With another size, the two losses would also differ by rounding.
    evaluation_batch_size: int
    # Where the adapter comes from. It is written into adapter_config.json.
    provenance: dict
    # The adapter that the training starts from, in a mode that starts from another; else None.
    initial: Adapter | None = None
    # Split -> the sha256 of the file from which its rows were read, for `write_train_record`.
    rows_sha256: dict[str, str] = field(default_factory=dict)

    def identity(self, data: dict[str, list[Example]], backend: Path, machine: list) -> str:
        """Return a digest of everything that decides the adapter's bits.

        A training must not continue from a saved state with another identity.

        data: the examples by split, as tokens
        backend: the file of this library whose code trains
        machine: what else decides the bits, such as the number of threads"""
        inputs = [
            self.settings.model_dump(),
            self.evaluation_batch_size,
            self.mode,
            self.seed,
            self.provenance,
            self.checkpoint.config,
        ]
        tokens = [[example.ids, example.answer_start] for split in sorted(data) for example in data[split]]
        # The tokens contain all that the task's file decides, and the provenance has the mask's digest. So the files of tasks
        # and importances need not count.
        code = code_digest(backend, Path(__file__).parents[2], values=frozenset())
        parts = [code, machine, inputs, tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `job_of` reads, --output_dir and --threads."""
    parser.add_argument("--run_id", required=True, help="the run; names the task, the mode and the seed")
    parser.add_argument("--model_path", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--mask_path", type=Path, required=True, help="the run's mask file")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.jsonl and validation.jsonl")
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number changes the last bits")
    parser.add_argument(
        "--evaluation_batch_size", type=int, default=32, help="sequences per forward pass of the evaluation loss"
    )
    add_flags(parser, Training, Training.model_fields)


def check_outputs(args: argparse.Namespace, *inputs: Path) -> None:
    """Raise InputError if a training would replace its own inputs, or files that this program did not write.

    `inputs` are paths that the backend reads in addition to those of `add_job_flags`."""
    adapter = args.output_dir / ADAPTER
    check_apart([args.output_dir], [args.model_path, args.mask_path, args.data_dir, *inputs])
    check_replaceable(adapter, "adapter")
    check_record(args.output_dir / "train.json", "training")


def job_of(
    args: argparse.Namespace, modes: tuple[str, ...] = NEW_ADAPTER_MODES, initial_adapter: Path | None = None
) -> TrainingJob:
    """Read and check all inputs, and return the job. Raises InputError if one of them does not fit.

    modes: those that the caller trains
    initial_adapter: the adapter that the training starts from, in a mode that starts from another"""
    run = Run.parse(args.run_id)
    if run.mode not in modes:
        raise InputError(f"{run.id} is not trained by this program", f"choose a run in mode {' or '.join(modes)}")
    if args.evaluation_batch_size < 1:
        raise InputError(f"--evaluation_batch_size {args.evaluation_batch_size}", "give 1 or more")
    settings = parse_section(Training, {name: getattr(args, name) for name in Training.model_fields}, "training")
    task = find_task(args.data_dir, run.task)
    task.check_trainable()
    checkpoint = Checkpoint(args.model_path)
    mask = read_mask(args.mask_path)
    mask_sha256 = sha256(args.mask_path)
    rows, rows_sha256 = read_splits(args.data_dir, task)
    check_run(mask, args.mask_path, run)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    mode = get_mode(run.mode)
    provenance = {
        "run_id": run.id,
        "mode": run.mode,
        "mask_sha256": mask_sha256,
        "base": checkpoint.digest,
        "stock_peft": mode.stock_peft,
    }
    initial = _initial_adapter(initial_adapter, run, mode, settings, provenance)
    if initial:
        provenance["initial_adapter"] = initial.digest
    return TrainingJob(
        checkpoint=checkpoint,
        mask=mask,
        mode=run.mode,
        seed=run.seed,
        settings=settings,
        task=task,
        rows=rows,
        evaluation_batch_size=args.evaluation_batch_size,
        provenance=provenance,
        initial=initial,
        rows_sha256=rows_sha256,
    )


def _initial_adapter(path: Path | None, run: Run, mode: Mode, settings: Training, provenance: dict) -> Adapter | None:
    """Return the adapter that a run starts from; None if its mode starts from a new one.

    Raises InputError if it is not that of the same cell and seed in the other mode, with the same base, mask and LoRA
    settings."""
    if (path is None) != (mode.starts_from is None):
        what = "starts from a new adapter" if path else f"starts from the adapter of {mode.starts_from}"
        raise InputError(
            f"{run.id} {what}", "leave --initial_adapter out" if path else "give it with --initial_adapter"
        )
    if path is None:
        return None
    adapter = read_adapter(path)
    expected = {
        "run_id": replace(run, mode=mode.starts_from).id,
        "mask_sha256": provenance["mask_sha256"],
        "base": provenance["base"],
        "r": settings.lora_r,
        "lora_alpha": settings.lora_alpha,
    }
    found = adapter.config | adapter.config.get("sparseft", {})
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: its {name} is {found.get(name)}, not {value}", "give the adapter of the same cell"
            )
    return adapter


def write_train_record(args: argparse.Namespace, job: TrainingJob, measured: dict, **inputs: str) -> None:
    """Write train.json beside adapter/: the settings, the measurements, and the digests of inputs and outputs.

    `inputs` are the digests of what else the caller read. `job_of` computed the digests of the inputs when it read them."""
    adapter = args.output_dir / ADAPTER
    inputs |= {
        "model": job.checkpoint.digest,
        "mask": job.provenance["mask_sha256"],
        **{split: job.rows_sha256[split] for split in SPLITS},
        **({"initial_adapter": job.initial.digest} if job.initial else {}),
    }
    content = {
        **job.settings.model_dump(),
        **{f"{split}_examples": len(job.rows[split]) for split in SPLITS},
        "definition_sha256": job.task.definition_sha256 if job.task.definition else None,
        **measured,
    }
    outputs = {"adapter": adapter_digest(adapter)}
    record = TrainingRecord(run_id=args.run_id, **content, inputs=inputs, outputs=outputs)
    write_record_of(adapter, args.output_dir / "train.json", record.model_dump())
