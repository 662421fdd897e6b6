"""Compare the importances without fine-tuning: accuracy, loss, and token perplexity on WikiText-2.

    python benchmarks/importance.py models/smollm2 --hellaswag DIR --wikitext DIR

Each DIR has train.jsonl and validation.jsonl: of HellaSwag in its original fields, and of WikiText-2 with a row per
page in the field `text`. gradient, taylor and wanda look at 128 training examples of the task in the same row. This
takes about 24 minutes on 2 cores. The table is written to benchmarks/results/importance.md.
"""

import json
import tempfile
from pathlib import Path

import torch
from bench import report
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.task import DOCUMENT_BREAK
from sparseft.common.command import run
from sparseft.data.loading import load_examples
from sparseft.data.settings import TaskData
from sparseft.data.texts import read_documents
from sparseft.evaluation.evaluate import evaluate, token_perplexity
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import load_model
from sparseft.pruning.calibration_examples import calibrate
from sparseft.pruning.mask_generator import MaskPass, compute_masks
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.hashes import sha256
from sparseft.training.lora.merge import merge

METHODS = ["unstructured", "unstructured_wanda", "unstructured_taylor", "unstructured_gradient", "random"]
PERCENTS = [30, 50, 70]
# Numbers of training and validation examples.
SIZES = {"hellaswag_mini": (480, 120), "hellaswag": (None, 200)}
# Tokens per window of the perplexity, and the number of windows.
CONTEXT = 1024
WINDOWS = 16


def figures(model: Checkpoint, folder: Path, name: str, rows: dict, text: str) -> list[list[str]]:
    """Return the rows of one task in the table. Files are written into `folder`."""
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows["train"]))
    score = measure(model, rows, name, text)
    table = [[name, "dense", "", *score]]
    settings = Masks()
    for method in METHODS:
        paths = [folder / f"{method}{percent}.pt" for percent in PERCENTS]
        uses_examples = get_method(method).uses_examples
        calibration = calibrate(get_method(method), name, data, settings) if uses_examples else None
        places = PassFiles(paths, folder / "report.json")
        compute_masks(MaskPass(model, get_method(method), PERCENTS, places, settings, calibration))
        for percent, path in zip(PERCENTS, paths, strict=True):
            merge(model, read_mask(path), sha256(path), None, folder / "pruned")
            table.append([name, method, str(percent), *measure(Checkpoint(folder / "pruned"), rows, name, text)])
            print(" | ".join(table[-1]), flush=True)
    return table


def measure(model: Checkpoint, rows: dict, name: str, text: str) -> list[str]:
    """Return the accuracy with its standard error, the loss of the answers, and the perplexity, as text."""
    loaded = load_model(model.folder, torch.device("cpu"))
    record = evaluate(*loaded, BY_NAME[name], rows, batch_size=32)
    perplexity = token_perplexity(*loaded, text, CONTEXT, WINDOWS)
    accuracy = f"{record['value']:.3f} ± {record['standard_error']:.3f}"
    return [accuracy, f"{record['eval_loss']:.3f}", f"{perplexity:.1f}"]


def main(model_path: Path, *, hellaswag: Path, wikitext: Path) -> None:
    """Measure, and report.

    Args:
        model_path: a prepared model folder
        hellaswag: folder of HellaSwag
        wikitext: folder of WikiText-2
    """
    text = DOCUMENT_BREAK.join(read_documents(wikitext / "validation.jsonl")[0])
    table = []
    for name, sizes in SIZES.items():
        local = str(hellaswag) if name == "hellaswag" else None
        train, validation = sizes
        data = TaskData(local=local, train_examples=train, validation_examples=validation)
        rows = load_examples(BY_NAME[name], data).rows
        with tempfile.TemporaryDirectory() as folder:
            table += figures(Checkpoint(model_path), Path(folder), name, rows, text)
    report(
        "importance",
        "Importances, without fine-tuning",
        [
            f"model: {model_path.name}, bf16; {len(rows['validation'])} HellaSwag and 120 hellaswag_mini examples",
            f"perplexity: WikiText-2 test, {WINDOWS} windows of {CONTEXT} tokens",
            "unstructured: magnitude; scope layer, wanda: row, sequential; calibration: 128 training examples"
            " of the task",
        ],
        ["task", "method", "sparsity, %", "acc_norm", "loss of the answers, nats a token", "perplexity"],
        table,
    )


if __name__ == "__main__":
    run(main)
