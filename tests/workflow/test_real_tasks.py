"""The three real tasks on the three architectures, from the model's source to the evaluated merge.

Nine cells for 3 architectures x 3 tasks x 3 dtypes x sharded or not x tied or not x key-value heads: every pair of choices
meets in one of them. Mistral has a sliding window that is shorter than the prompts.
"""

import math
from dataclasses import dataclass
from pathlib import Path

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
from sparseft.training.job import TrainingJob
from tiny_models import PRUNABLE_LAYERS, save_tiny

from masks import compute_masks, write_mask

CPU = torch.device("cpu")
CONTEXT = 2048  # bytes are tokens here, and gsm8k asks after five worked examples
SETTINGS = Training(steps=2, batch_size=4, micro_batch_size=2, learning_rate=0.02, lora_r=4, save_every=0)
NUMBER = {"train": 6, "validation": 4}


@dataclass(frozen=True)
class Cell:
    model: str
    task: str
    dtype: str
    sharded: bool
    tied: bool
    kv_heads: int  # of 4 heads: 2 are grouped queries


CELLS = [
    Cell("llama", "boolq", "bfloat16", False, False, 2),
    Cell("llama", "hellaswag", "float16", True, True, 2),
    Cell("llama", "gsm8k", "float32", False, True, 4),
    Cell("mistral", "boolq", "float16", False, True, 4),
    Cell("mistral", "hellaswag", "float32", True, False, 2),
    Cell("mistral", "gsm8k", "bfloat16", True, False, 4),
    Cell("mixtral", "boolq", "float32", True, False, 4),
    Cell("mixtral", "hellaswag", "bfloat16", False, True, 4),
    Cell("mixtral", "gsm8k", "float16", False, False, 2),
]


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


@dataclass(frozen=True)
class Prepared:
    """Hold a cell's base model, mask and rows."""

    cell: Cell
    folder: Path
    base: Checkpoint
    mask: Mask
    rows: dict[str, list[dict]]

    @property
    def mask_path(self) -> Path:
        return self.folder / "mask.pt"


@pytest.fixture(scope="module", params=CELLS, ids=lambda cell: f"{cell.model}-{cell.task}-{cell.dtype}")
def prepared(request, tmp_path_factory) -> Prepared:
    cell, folder = request.param, tmp_path_factory.mktemp("cell")
    changes = {
        "num_key_value_heads": cell.kv_heads,
        "tie_word_embeddings": cell.tied,
        "max_position_embeddings": CONTEXT,
    }
    options = {"max_shard_size": "40KB"} if cell.sharded else {}
    save_tiny(cell.model, folder / "source", getattr(torch, cell.dtype), changes, **options)
    prepare_model(Model(source=f"path:{folder / 'source'}", dtype=cell.dtype), folder / "base")
    starts = {"train": 0, "validation": 50}
    rows = {split: [row(cell.task, start + n) for n in range(NUMBER[split])] for split, start in starts.items()}
    base = Checkpoint(folder / "base")
    write_mask(folder / "mask.pt", compute_masks(base, "unstructured", [50])[50])
    return Prepared(cell, folder, base, read_mask(folder / "mask.pt"), rows)


def finished(prepared: Prepared, mode: str) -> tuple[dict, Checkpoint]:
    """Return the content of a run's train.json, and its merged model."""
    folder, digest = prepared.folder / mode, sha256(prepared.mask_path)
    check_mask(prepared.mask, prepared.mask_path, prunable_shapes(prepared.base), prepared.base.digest)
    provenance = {"run_id": "r", "mode": mode, "mask_sha256": digest}
    job = TrainingJob(
        prepared.base, prepared.mask, mode, 0, SETTINGS, BY_NAME[prepared.cell.task], prepared.rows, 4, provenance
    )
    record = train(job, folder / "adapter", folder / "state.pt", Accelerator(cpu=True))
    merge(prepared.base, prepared.mask, digest, folder / "adapter", folder / "merged")
    return record, Checkpoint(folder / "merged")


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_a_run_trains_merges_validates_and_evaluates(prepared, mode):
    task = BY_NAME[prepared.cell.task]
    record, merged = finished(prepared, mode)
    assert [point["step"] for point in record["loss_curve"]] == [1, 2]
    assert record["loss_curve"][0]["gradient_norm"] > 0

    report = validate(merged, prepared.mask, base=prepared.base)
    assert (report["passed"], report["violations"]) == (True, 0)
    assert report["layers_checked"] == report["layers_expected"] == PRUNABLE_LAYERS[prepared.cell.model]
    assert report["actual_sparsity"] == pytest.approx(0.5, abs=0.001)
    assert report["tensors_outside_checked"] > 0

    adapter = prepared.folder / mode / "adapter"
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
