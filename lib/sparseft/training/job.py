"""One training as its scripts are told it, whatever the backend: flags, checked inputs, identity, record."""

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.masks.mask_file import Mask, check_mask, check_run, read_mask
from sparseft.modes import get_mode
from sparseft.storage.files import (
    adapter_digest,
    check_apart,
    check_ours,
    check_replaceable,
    check_writable,
    sha256,
    whole_with,
)
from sparseft.storage.record import ADAPTER, write_record
from sparseft.study.config import Training, add_flags, parse_section
from sparseft.study.digests import code_digest
from sparseft.study.grid import NO_FINETUNE, TRAINED_MODES, Run
from sparseft.tasks import get_task
from sparseft.tasks.prepared import read_splits
from sparseft.tasks.task import SPLITS, Row, Task


@dataclass(frozen=True)
class Job:
    """What is trained: one run. `provenance` goes into adapter_config.json, `rows` are the examples by split.

    `rows_sha256`: by split, that of the files that the rows were read from. Rows that come from no file have none, and
    `write_train_record` cannot record them.

    `evaluation_batch_size`: that of the evaluation after the merge, or rounding would add to the gap between the two."""

    checkpoint: Checkpoint
    mask: Mask
    mode: str
    seed: int
    settings: Training
    task: Task
    rows: dict[str, list[Row]]
    evaluation_batch_size: int
    provenance: dict
    rows_sha256: dict[str, str] = field(default_factory=dict)

    def identity(self, data: dict[str, list[Example]], backend: Path, where: list) -> str:
        """What must agree for a saved state to be gone on from: all that decides the adapter's bits.

        `data` by split, the code that `backend`, a module of this library, imports, and the machine, `where`."""
        what = [
            self.settings.model_dump(),
            self.evaluation_batch_size,
            self.mode,
            self.seed,
            self.provenance,
            self.checkpoint.config,
        ]
        tokens = [[example.ids, example.answer_start] for split in sorted(data) for example in data[split]]
        # The examples stand for the task, and the provenance for the mask, so that no value's file counts.
        code = code_digest(backend, Path(__file__).parents[2], values=frozenset())
        parts = [code, where, what, tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `job_of` reads, and --output_dir."""
    parser.add_argument("--run_id", required=True, help="names the task, the mode and the seed")
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--mask_path", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True, help="train.jsonl and validation.jsonl")
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number, other last bits")
    parser.add_argument(
        "--evaluation_batch_size", type=int, default=32, help="sequences a forward pass of the evaluation loss"
    )
    add_flags(parser, Training, Training.model_fields)


def check_outputs(args: argparse.Namespace, *inputs: Path) -> None:
    """Raise InputError if a training would replace what it reads, or what is not this program's.

    `inputs` are read in addition to those of the flags. The record train.json is this program's if the adapter beside it is."""
    adapter, record = args.output_dir / ADAPTER, args.output_dir / "train.json"
    check_apart([args.output_dir], [args.model_path, args.mask_path, args.data_dir, *inputs])
    check_replaceable(adapter)
    check_ours(adapter, record)
    check_writable(record)


def job_of(args: argparse.Namespace) -> Job:
    """Return the run with its checked inputs. Raises InputError where one of them does not fit."""
    run = Run.parse(args.run_id)
    if run.mode == NO_FINETUNE:
        raise InputError(f"{run.id} is not trained", f"choose one of {', '.join(TRAINED_MODES)}")
    task, checkpoint, mask = get_task(run.task), Checkpoint(args.model_path), read_mask(args.mask_path)
    mask_sha256 = sha256(args.mask_path)
    settings = parse_section(Training, {name: getattr(args, name) for name in Training.model_fields}, "training")
    rows, rows_sha256 = read_splits(args.data_dir, task)
    check_run(mask, args.mask_path, run)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    provenance = {"run_id": run.id, "mode": run.mode, "mask_sha256": mask_sha256, "base": checkpoint.digest,
                  "stock_peft": get_mode(run.mode).stock_peft}  # fmt: skip
    size = args.evaluation_batch_size
    if size < 1:
        raise InputError(f"--evaluation_batch_size {size}", "give 1 or more")
    return Job(checkpoint, mask, run.mode, run.seed, settings, task, rows, size, provenance, rows_sha256)


def write_train_record(args: argparse.Namespace, job: Job, record: dict) -> None:
    """Write train.json beside adapter/: the settings, what was measured, and the digests of inputs and outputs.

    The digests of the inputs are those that `job_of` took when it read them."""
    inputs = {"model": job.checkpoint.digest, "mask": job.provenance["mask_sha256"]}
    inputs |= {split: job.rows_sha256[split] for split in SPLITS}
    outputs = {"adapter": adapter_digest(args.output_dir / "adapter")}
    examples = {f"{split}_examples": len(job.rows[split]) for split in SPLITS}
    content = {"run_id": args.run_id, **job.settings.model_dump(), **examples, **record}
    content |= {"inputs": inputs, "outputs": outputs}
    with whole_with(args.output_dir / "adapter"):
        write_record(args.output_dir / "train.json", content)
