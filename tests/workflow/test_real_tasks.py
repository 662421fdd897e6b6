"""The three real tasks on three architectures, from the model's source to the evaluated merge.

tests/architectures/test_stages.py has every architecture, sharded, tied and in each dtype, on a mini task.
"""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from sparseft.backends.torch import train, trained_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.checkpoints.model_source import prepare_model
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.batches import collate, encode
from sparseft.language_model.model import load_model
from sparseft.language_model.weights import unfuse_experts
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import Mask, check_mask, read_mask
from sparseft.masks.validation import validate
from sparseft.storage.hashes import sha256
from sparseft.study.schedule import Training
from sparseft.study.sources import Model
from sparseft.tasks import BY_NAME
from sparseft.tasks.task import Task
from sparseft.training.job import TrainingJob
from tiny_models import PRUNABLE_LAYERS, save_tiny

from masks import compute_masks, write_mask

CPU = torch.device("cpu")
CONTEXT = 2048  # bytes are tokens here, and gsm8k asks after five worked examples
SETTINGS = Training(steps=2, batch_size=4, micro_batch_size=2, learning_rate=0.02, lora_r=4, save_every=0)
NUMBER = {"train": 6, "validation": 4}
# Architecture, task and dtype. Mistral has a sliding window that is shorter than the prompts.
CELLS = [("llama", "boolq", "bfloat16"), ("mistral", "hellaswag", "float32"), ("mixtral", "gsm8k", "float16")]


def row(task: str, n: int) -> dict:
    """Return row `n` in the fields of the original data set, with some of its other fields."""
    return {
        "boolq": {
            "passage": f"Lake {n} is {n + 3} metres deep, and frozen.",
            "question": f"is lake {n} deep",
            "answer": n % 2 == 0,
            "title": "Lakes",
        },
        "hellaswag": {
            "activity_label": "Making tea",
            "ctx_a": f"Person {n} boils {n + 2} cups of water in a pot.",
            "ctx_b": "then the tea",
            "endings": ["is poured.", f"has {n} legs.", "[title] Runs away.", "sleeps."],
            "label": str(n % 4),
        },
        "gsm8k": {
            "question": f"Ann has {n} pens and buys {n + 1}. How many has she?",
            "answer": f"{n} + {n + 1} = <<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1}\n#### {2 * n + 1}",
        },
    }[task]


class Prepared(NamedTuple):
    """Hold the name of a model, a task with its rows, the base model, and a mask with its file."""

    model: str
    task: Task
    rows: dict[str, list[dict]]
    base: Checkpoint
    mask: Mask
    mask_path: Path


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def prepared(request, tmp_path_factory) -> Prepared:
    (model, task, dtype), folder = request.param, tmp_path_factory.mktemp("cell")
    save_tiny(model, folder / "source", getattr(torch, dtype), {"max_position_embeddings": CONTEXT})
    prepare_model(Model(source=f"path:{folder / 'source'}", dtype=dtype), folder / "base")
    starts = {"train": 0, "validation": 50}
    rows = {split: [row(task, start + n) for n in range(NUMBER[split])] for split, start in starts.items()}
    base, mask_path = Checkpoint(folder / "base"), folder / "mask.pt"
    write_mask(mask_path, compute_masks(base, "unstructured", [50])[50])
    return Prepared(model, BY_NAME[task], rows, base, read_mask(mask_path), mask_path)


def finished(prepared: Prepared, mode: str) -> tuple[dict, Checkpoint]:
    """Return the content of a run's train.json, and its merged model."""
    folder, digest = prepared.mask_path.parent / mode, sha256(prepared.mask_path)
    check_mask(prepared.mask, prepared.mask_path, prunable_shapes(prepared.base), prepared.base.digest)
    provenance = {"run_id": "r", "mode": mode, "mask_sha256": digest}
    job = TrainingJob(prepared.base, prepared.mask, mode, 0, SETTINGS, prepared.task, prepared.rows, 4, provenance)
    record = train(job, folder / "adapter", folder / "state.pt", Accelerator(cpu=True))
    merge(prepared.base, prepared.mask, digest, folder / "adapter", folder / "merged")
    return record, Checkpoint(folder / "merged")


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_a_run_trains_merges_validates_and_evaluates(prepared, mode):
    task = prepared.task
    record, merged = finished(prepared, mode)
    assert [point["step"] for point in record["loss_curve"]] == [1, 2]
    assert record["loss_curve"][0]["gradient_norm"] > 0

    report = validate(merged, prepared.mask, base=prepared.base)
    assert (report["passed"], report["violations"]) == (True, 0)
    assert report["layers_checked"] == report["layers_expected"] == PRUNABLE_LAYERS[prepared.model]
    assert report["actual_sparsity"] == pytest.approx(0.5, abs=0.001)
    assert report["tensors_outside_checked"] > 0

    adapter = prepared.mask_path.parent / mode / "adapter"
    before, tokenizer, _ = trained_model(prepared.base, prepared.mask, sha256(prepared.mask_path), adapter, CPU)
    after, _ = load_model(merged.folder, CPU)
    unfuse_experts(after)  # transformers' fused experts sum in another order
    ids = collate(encode(prepared.rows["validation"], task, tokenizer, CONTEXT)).ids
    with torch.no_grad():
        same = torch.equal(before(input_ids=ids).logits, after(input_ids=ids).logits)
    assert same == (mode == "sparse_to_sparse")

    result = evaluate(after, tokenizer, task, prepared.rows, 4)
    assert len(result["outcomes"]) == result["examples"] == NUMBER["validation"]
    assert set(result["outcomes"]) <= {0.0, 1.0}
    assert math.isfinite(result["eval_loss"])
    if mode == "sparse_to_sparse":
        # Short choices of a float32 model share a pass, whose sums have another order.
        tolerance = 1e-6 if after.dtype == torch.float32 else 0
        assert abs(result["eval_loss"] - record["eval_loss"]) <= tolerance * record["eval_loss"]
