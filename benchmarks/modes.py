"""Which mode fine-tunes better: sparse_to_dense, or sparse_to_sparse with its exact or its straight-through gradient?

    python benchmarks/modes.py models/smollm2 --hellaswag DIR [--seeds 3]

DIR: train.jsonl and validation.jsonl of HellaSwag in its original fields. Masks by magnitude at 50 and 70 %; one task is
generated, the other is DIR's. Variants of a seed share the initial adapters and the batches, so they are compared seed by
seed. About 25 minutes on 2 cores; writes benchmarks/results/modes.md and modes_differences.md.
"""

import argparse
import multiprocessing
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from bench import report
from scipy.stats import ttest_rel
from sparseft.backends.torch import train
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.language_model.model import load_model
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import read_mask
from sparseft.pruning.mask_generator import compute_masks
from sparseft.storage.hashes import sha256
from sparseft.study.config import Masks, Training
from sparseft.tasks import get_task
from sparseft.tasks.data_source import load_rows
from sparseft.training.job import TrainingJob

PERCENTS = (50, 70)
SETTINGS = {
    "hellaswag_mini": Training(steps=20, learning_rate=2e-3),
    "hellaswag": Training(steps=40, learning_rate=1e-3),
}
SIZES = {"hellaswag_mini": (480, 120), "hellaswag": (None, 120)}  # training and validation examples
EXACT = "sparse_to_sparse, exact"
VARIANTS = {
    "sparse_to_dense": ("sparse_to_dense", "exact"),
    EXACT: ("sparse_to_sparse", "exact"),
    "sparse_to_sparse, straight-through": ("sparse_to_sparse", "straight_through"),
}
METRICS = ("loss", "gap", "accuracy")


@dataclass(frozen=True)
class Cell:
    """One training, or for variant None the pruned model as it is."""

    task: str
    percent: int
    variant: str | None
    seed: int
    model: Path
    data: Path | None
    mask: Path


def measure(cell: Cell) -> dict[str, float]:
    """After the merge: loss of the answers, its distance to the loss before the merge, accuracy."""
    limit_threads(1)
    keep_freed_memory()
    checkpoint, mask, task = Checkpoint(cell.model), read_mask(cell.mask), get_task(cell.task)
    splits = zip(("train", "validation"), SIZES[cell.task], strict=True)
    rows = {split: load_rows(task, split, size, 0, cell.data) for split, size in splits}
    with tempfile.TemporaryDirectory() as folder:
        adapter, before = None, None
        if cell.variant:
            mode, gradient = VARIANTS[cell.variant]
            settings = SETTINGS[cell.task].model_copy(update={"gradient": gradient})
            provenance = {"mask_sha256": sha256(cell.mask)}
            job = TrainingJob(checkpoint, mask, mode, cell.seed, settings, task, rows, 32, provenance)
            adapter = Path(folder, "adapter")
            before = train(job, adapter, Path(folder, "state.pt"), Accelerator(cpu=True))["eval_loss"]
        merge(checkpoint, mask, sha256(cell.mask), adapter, Path(folder, "merged"))
        after = evaluate(*load_model(Path(folder, "merged"), torch.device("cpu")), task, rows, batch_size=32)
    return {
        "loss": after["eval_loss"],
        "gap": 0.0 if before is None else after["eval_loss"] - before,
        "accuracy": after["value"],
    }


def spread(values: list[float]) -> str:
    """Mean ± standard error over the seeds."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def summary(found: dict[Cell, dict], seeds: int) -> list[list[str]]:
    """A row a task, sparsity and variant."""
    rows = []
    for task, percent, variant in product(SETTINGS, PERCENTS, (None, *VARIANTS)):
        runs = [
            result
            for cell, result in found.items()
            if (cell.task, cell.percent, cell.variant) == (task, percent, variant)
        ]
        assert len(runs) == (seeds if variant else 1)
        rows.append(
            [task, str(percent), variant or "no_finetune", *(spread([run[name] for run in runs]) for name in METRICS)]
        )
    return rows


def differences(found: dict[Cell, dict]) -> list[list[str]]:
    """Each variant minus the exact one, seed by seed; Student's paired t test over the seeds, two-sided."""
    rows = []
    for task, percent, variant in product(SETTINGS, PERCENTS, VARIANTS):
        if variant == EXACT:
            continue
        row = [task, str(percent), f"{variant} minus exact"]
        for name in ("loss", "accuracy"):
            ours, theirs = ([result[name] for cell, result in sorted(found.items(), key=lambda item: item[0].seed)
                             if (cell.task, cell.percent, cell.variant) == (task, percent, each)]
                            for each in (variant, EXACT))  # fmt: skip
            steps = np.subtract(ours, theirs)
            tested = len(steps) > 1 and np.std(steps) > 1e-9  # equal differences have no error to compare with
            row += [spread(list(steps)), f"{ttest_rel(ours, theirs).pvalue:.3f}" if tested else ""]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_path", type=Path)
    parser.add_argument("--hellaswag", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        masks = {percent: Path(folder, f"{percent}.pt") for percent in PERCENTS}
        with compute_masks(Checkpoint(args.model_path), "unstructured", list(PERCENTS), list(masks.values()), Masks()):
            pass
        cells = [
            Cell(
                task,
                percent,
                variant,
                seed,
                args.model_path,
                args.hellaswag if task == "hellaswag" else None,
                masks[percent],
            )
            for task, percent, variant in product(SETTINGS, PERCENTS, (None, *VARIANTS))
            for seed in range(args.seeds if variant else 1)
        ]
        found = {}
        with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
            for cell, result in zip(cells, pool.imap(measure, cells, chunksize=1), strict=True):
                found[cell] = result
                print(cell.task, cell.percent, cell.variant, cell.seed, result, flush=True)
    conditions = [
        f"{args.model_path.name}, bf16, masks by magnitude; {args.seeds} seeds, mean ± standard error over them",
        *(f"{task}: {settings.steps} steps of {settings.batch_size} examples, learning rate {settings.learning_rate}, r = "
          f"{settings.lora_r}, alpha = {settings.lora_alpha:.0f}; {SIZES[task][1]} validation examples"
          for task, settings in SETTINGS.items()),
    ]  # fmt: skip
    report("modes", "Modes and gradients", [*conditions, "loss: nats a token of the answers, after the merge; gap: minus the loss before it"],
           ["task", "sparsity, %", "mode", "loss", "train-merge gap", "acc_norm"], summary(found, args.seeds))  # fmt: skip
    report("modes_differences", "Modes and gradients, seed by seed", [*conditions, "p: Student's paired t test over the seeds, two-sided"],
           ["task", "sparsity, %", "", "loss", "p", "acc_norm", "p"], differences(found))  # fmt: skip


if __name__ == "__main__":
    main()
