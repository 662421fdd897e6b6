"""Compare the modes sparse_to_dense and sparse_to_sparse.

    python benchmarks/modes.py models/smollm2 --hellaswag DIR [--seeds 3]

DIR has train.jsonl and validation.jsonl of HellaSwag in its original fields. The other task is generated. The masks are
by magnitude, at 50 and 70 %. The modes of a seed share the initial adapters and the batches, so they are compared seed
by seed. This takes about 25 minutes on 2 cores. The tables are written to benchmarks/results/modes.md and
modes_differences.md.
"""

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
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.common.command import run
from sparseft.data.loading import load_examples
from sparseft.data.settings import TaskData
from sparseft.evaluation.evaluate import evaluate
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.models.language_model.model import load_model
from sparseft.pruning.mask_generator import MaskPass, compute_masks
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.hashes import sha256
from sparseft.training.job import TrainingJob
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from sparseft.training.trainers.torch import train

PERCENTS = (50, 70)
SETTINGS = {
    "hellaswag_mini": Training(steps=20, learning_rate=2e-3),
    "hellaswag": Training(steps=40, learning_rate=1e-3),
}
# Numbers of training and validation examples.
SIZES = {"hellaswag_mini": (480, 120), "hellaswag": (None, 120)}
MODES = ("sparse_to_dense", "sparse_to_sparse")
METRICS = ("loss", "gap", "accuracy")
# Trainings at a time.
PROCESSES = 2


@dataclass(frozen=True)
class Cell:
    """Describe one training. Without a mode, the pruned model is not trained."""

    task: str
    percent: int
    mode: str | None
    seed: int
    model: Path
    data: Path | None
    mask: Path


def measure(cell: Cell) -> dict[str, float]:
    """Return the loss of the answers and the accuracy after the merge, and what the merge adds to the loss."""
    limit_threads(1)
    keep_freed_memory()
    checkpoint = Checkpoint(cell.model)
    mask = read_mask(cell.mask)
    task = BY_NAME[cell.task]
    local = str(cell.data) if cell.data else None
    numbers = dict(zip(("train_examples", "validation_examples"), SIZES[cell.task], strict=True))
    rows = load_examples(task, TaskData(local=local, **numbers)).rows
    with tempfile.TemporaryDirectory() as folder:
        adapter, before = None, None
        if cell.mode:
            settings = SETTINGS[cell.task].model_copy(update={"eval_every": SETTINGS[cell.task].steps})
            provenance = {"mask_sha256": sha256(cell.mask)}
            adapter = Path(folder, "adapter")
            job = TrainingJob(checkpoint, mask, cell.mode, cell.seed, settings, task, rows, 32, adapter, provenance)
            record = train(job, Path(folder, "state.pt"), Accelerator(cpu=True))
            before = record["eval_curve"][-1]["eval_loss"]
        merge(checkpoint, mask, sha256(cell.mask), adapter, Path(folder, "merged"))
        after = evaluate(*load_model(Path(folder, "merged"), torch.device("cpu")), task, rows, batch_size=32)
    return {
        "loss": after["eval_loss"],
        "gap": 0.0 if before is None else after["eval_loss"] - before,
        "accuracy": after["value"],
    }


def spread(values: list[float]) -> str:
    """Return the mean ± its standard error over the seeds, as text."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def of(results: dict[Cell, dict], task: str, percent: int, mode: str | None) -> list[dict]:
    """Return the results of one task, sparsity and mode, by seed."""
    place = (task, percent, mode)
    cells = [cell for cell in results if (cell.task, cell.percent, cell.mode) == place]
    return [results[cell] for cell in sorted(cells, key=lambda cell: cell.seed)]


def summary(results: dict[Cell, dict]) -> list[list[str]]:
    """Return a row per task, sparsity and mode."""
    rows = []
    for task, percent, mode in product(SETTINGS, PERCENTS, (None, *MODES)):
        runs = of(results, task, percent, mode)
        means = [spread([run[name] for run in runs]) for name in METRICS]
        rows.append([task, str(percent), mode or "no_finetune", *means])
    return rows


def differences(results: dict[Cell, dict]) -> list[list[str]]:
    """Return sparse_to_dense minus sparse_to_sparse, with the p-value of Student's paired test over the seeds,
    two-sided."""
    rows = []
    for task, percent in product(SETTINGS, PERCENTS):
        row = [task, str(percent), " minus ".join(MODES)]
        for name in ("loss", "accuracy"):
            ours, theirs = ([run[name] for run in of(results, task, percent, mode)] for mode in MODES)
            steps = np.subtract(ours, theirs)
            # Equal differences have no error to compare with.
            is_testable = len(steps) > 1 and np.std(steps) > 1e-9
            row += [spread(list(steps)), f"{ttest_rel(ours, theirs).pvalue:.3f}" if is_testable else ""]
        rows.append(row)
    return rows


def measure_all(model: Path, hellaswag: Path, seeds: int, masks: dict[int, Path]) -> dict[Cell, dict]:
    """Return the results of every cell, and print each when it is there."""
    cells = [
        Cell(task, percent, mode, seed, model, hellaswag if task == "hellaswag" else None, masks[percent])
        for task, percent, mode in product(SETTINGS, PERCENTS, (None, *MODES))
        for seed in range(seeds if mode else 1)
    ]
    results = {}
    with multiprocessing.get_context("spawn").Pool(PROCESSES, maxtasksperchild=1) as pool:
        for cell, result in zip(cells, pool.imap(measure, cells, chunksize=1), strict=True):
            results[cell] = result
            print(cell.task, cell.percent, cell.mode, cell.seed, result, flush=True)
    return results


def conditions_of(model: Path, seeds: int) -> list[str]:
    """Return the lines on the model, the masks and the trainings."""
    lines = [f"{model.name}, bf16, masks by magnitude; {seeds} seeds, mean ± standard error over them"]
    for task, settings in SETTINGS.items():
        lines.append(
            f"{task}: {settings.steps} steps of {settings.batch_size} examples, learning rate"
            f" {settings.learning_rate}, r ="
            f" {settings.lora_r}, alpha = {settings.lora_alpha:.0f}; {SIZES[task][1]} validation examples"
        )
    return lines


def main(model_path: Path, *, hellaswag: Path, seeds: int = 3) -> None:
    """Measure every cell, and report.

    Args:
        model_path: a prepared model folder
        hellaswag: folder of HellaSwag
        seeds: number of seeds
    """
    with tempfile.TemporaryDirectory() as folder:
        masks = {percent: Path(folder, f"{percent}.pt") for percent in PERCENTS}
        places = PassFiles(list(masks.values()), Path(folder, "report.json"))
        method = get_method("unstructured")
        compute_masks(MaskPass(Checkpoint(model_path), method, list(PERCENTS), places, Masks()))
        results = measure_all(model_path, hellaswag, seeds, masks)
    conditions = conditions_of(model_path, seeds)
    report(
        "modes",
        "Modes",
        [*conditions, "loss: nats a token of the answers, after the merge; gap: minus the loss before it"],
        ["task", "sparsity, %", "mode", "loss", "train-merge gap", "acc_norm"],
        summary(results),
    )
    report(
        "modes_differences",
        "Modes, seed by seed",
        [*conditions, "p: Student's paired t test over the seeds, two-sided"],
        ["task", "sparsity, %", "", "loss", "p", "acc_norm", "p"],
        differences(results),
    )


if __name__ == "__main__":
    run(main)
