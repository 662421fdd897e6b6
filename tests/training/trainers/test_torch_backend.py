"""One training, from checkpoint and mask to adapter and record."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, encode
from sparseft.models.language_model.hardware import limit_threads
from sparseft.models.language_model.loss import AnswerLoss, mean_answer_loss
from sparseft.models.language_model.placement import DISK, placement
from sparseft.storage.hashes import sha256
from sparseft.training.job import TrainingJob
from sparseft.training.lora.adapted_model import trained_model
from sparseft.training.settings import Training
from sparseft.training.trainers.torch import train
from tiny_models import change_json
from transformers import AutoModelForCausalLM, AutoTokenizer

from masks import compute_masks

SETTINGS = Training(steps=4, batch_size=4, micro_batch_size=2, learning_rate=0.02, lora_r=4, lora_alpha=8.0)
TASK = BY_NAME["boolq_mini"]
ROWS = {"train": TASK.generate("train", 16, 0), "validation": TASK.generate("validation", 8, 0)}


def job_of(
    checkpoint: Checkpoint, adapter: Path, mode="sparse_to_sparse", method="unstructured", seed=0, settings=SETTINGS,
    rows=ROWS
) -> TrainingJob:  # fmt: skip
    mask, origin = compute_masks(checkpoint, method, [50], seed=0)[50], {"mask_sha256": "m", "mode": mode}
    return TrainingJob(checkpoint, mask, mode, seed, settings, TASK, rows, 8, adapter, origin)


def run(checkpoint: Checkpoint, adapter: Path, **changes: object) -> dict:
    limit_threads(1)
    return train(job_of(checkpoint, adapter, **changes), adapter.parent / "state.pt", Accelerator(cpu=True))


def digest(adapter: Path) -> str:
    return sha256(adapter / "adapter_model.safetensors")


def test_a_training_on_the_inputs_takes_the_loss_of_every_token_but_the_first_as_transformers(tmp_path, tiny_llama):
    # The first step has the learning rate 0, and B starts at zero, so the losses are those of the pruned model.
    settings = SETTINGS.model_copy(update={"steps": 1, "batch_size": 1, "micro_batch_size": 1, "warmup_fraction": 0.9})
    rows = {**ROWS, "train": ROWS["train"][:1]}
    both = [settings.model_copy(update={"train_on_inputs": flag}) for flag in (False, True)]
    answers, everything = (run(tiny_llama, tmp_path / f"{n}", settings=own, rows=rows) for n, own in enumerate(both))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, dtype=torch.float32)
    mask = compute_masks(tiny_llama, "unstructured", [50], seed=0)[50]
    for layer in mask.shape:
        model.get_submodule(layer).weight.data *= torch.from_numpy(mask.kept(layer))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.folder)
    example = encode(rows["train"], TASK, tokenizer, 512)[0]
    ids = torch.tensor([example.ids])
    labels = ids.clone()
    losses = [model(ids, labels=labels).loss.item()]
    labels[0, : example.answer_start] = -100
    losses.append(model(ids, labels=labels).loss.item())
    found = [record["loss_curve"][0]["loss"] for record in (everything, answers)]
    assert found == pytest.approx(losses, rel=0.01)
    assert found[0] != pytest.approx(found[1], rel=0.02)


def test_the_seed_draws_the_matrices_too_and_not_only_the_batches(tmp_path, tiny_llama):
    rows = {**ROWS, "train": ROWS["train"][:1]}  # every batch is the same
    losses = [run(tiny_llama, tmp_path / f"{seed}", seed=seed, rows=rows)["loss_curve"] for seed in (0, 1)]
    assert losses[0][0]["loss"] == losses[1][0]["loss"]  # B starts at zero
    assert digest(tmp_path / "0") != digest(tmp_path / "1")


def test_whatever_decides_the_bits_is_in_the_identity_of_a_state(tiny_llama, tmp_path):
    job = job_of(tiny_llama, tmp_path / "adapter")
    data = {"train": [Example([1, 2, 3], 2)]}
    other = Checkpoint(shutil.copytree(tiny_llama.folder, tmp_path / "other"))
    change_json(other.folder / "config.json", rms_norm_eps=0.1)
    found = [
        job.identity(data, [1]),
        job.identity(data, [2]),
        replace(job, mode="sparse_to_dense").identity(data, [1]),
        replace(job, seed=1).identity(data, [1]),
        replace(job, settings=SETTINGS.model_copy(update={"learning_rate": 0.5})).identity(data, [1]),
        replace(job, provenance={"mask_sha256": "n"}).identity(data, [1]),
        replace(job, checkpoint=other).identity(data, [1]),
        replace(job, teacher=other).identity(data, [1]),
        job.identity({"train": [Example([1, 2, 3], 1)]}, [1]),
        job.identity({"train": [Example([1, 2, 4], 2)]}, [1]),
        replace(job, version=2).identity(data, [1]),
    ]
    assert len(set(found)) == 11
    assert job.identity(data, [1]) == found[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "mode"),
    [("unstructured", "sparse_to_dense"), ("unstructured", "sparse_to_sparse"), ("structured", "sparse_to_sparse")],
)
def test_the_trained_model_is_read_back_from_its_adapter(tmp_path, tiny, method, mode):
    settings = SETTINGS.model_copy(update={"eval_every": SETTINGS.steps})
    record = run(tiny, tmp_path / "adapter", mode=mode, method=method, settings=settings)
    mask = compute_masks(tiny, method, [50], seed=0)[50]
    # With all of its weights in memory, and with those of the decoder layers in their files.
    for rooms, layers in ((None, {"cpu": 2}), ({"cpu": 0}, {DISK: 2})):
        model, tokenizer, _ = trained_model(
            tiny, mask, "m", tmp_path / "adapter", torch.device("cpu"), max_memory=rooms
        )
        assert placement(model) == layers
        examples = encode(ROWS["validation"], TASK, tokenizer, 512)
        loss = mean_answer_loss(AnswerLoss(model), examples, 8, torch.device("cpu"))
        assert loss == record["eval_curve"][0]["eval_loss"]
    with pytest.raises(InputError, match="its mask_sha256 is m, not another"):
        trained_model(tiny, mask, "another", tmp_path / "adapter", torch.device("cpu"))
