"""The parts of the Cerebras backend in this process, which opens the package's CPU backend."""

import copy
import time

import pytest
import torch
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import read_rows
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.training.job import TrainingJob
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.cerebras import Cerebras
from tiny_models import MODELS, PRUNABLE_LAYERS, TYPICAL
from transformers import get_scheduler

pytest.importorskip("cerebras.pytorch", reason="needs cerebras-pytorch (make test-cerebras)")
import cerebras.pytorch as cstorch
from sparseft.models.language_model.batches import Example
from sparseft.training.trainers.cerebras import trainer as trainer_module
from sparseft.training.trainers.cerebras.package import optimizer_and_schedule, read_last_mdl, write_mdl
from sparseft.training.trainers.cerebras.trainer import Trainer, evaluation_batches
from sparseft.training.trainers.fixed_shapes import DenseExperts, top_k_weights


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return cstorch.backend("CPU", artifact_dir=str(tmp_path_factory.mktemp("logs")))


def trainer(inputs, backend, folder, model: str, mode: str, **schedule: object) -> Trainer:
    task, path = BY_NAME["boolq_mini"], inputs.folder / f"{model}_unstructured.pt"
    rows = {split: read_rows(inputs.folder / f"data/{split}.jsonl", task) for split in ("train", "validation")}
    given = {"steps": 3, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.02, "warmup_fraction": 0.0}
    settings = Training(**given | schedule)
    checkpoint, mask = Checkpoint(inputs.folder / model), read_mask(path)
    job = TrainingJob(checkpoint, mask, mode, 0, settings, task, rows, 8, inputs.folder / "adapter", {})
    return Trainer(job, Cerebras(target="CPU", sequence_length=160), backend, folder)


@pytest.mark.parametrize("model", TYPICAL)
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_the_declared_masks_are_the_file_s_and_the_adapters_have_none(inputs, backend, tmp_path, model, mode):
    found = trainer(inputs, backend, tmp_path, model, mode)
    before = {name: p.detach().clone() for name, p in found.module.named_parameters() if not p.requires_grad}
    found.run()
    for name, weight in before.items():
        after = found.module.get_parameter(name).detach()
        assert torch.equal(after.view(torch.uint8), weight.view(torch.uint8)), name
    masks = {key: mask for key, mask in found.module.named_buffers() if key.endswith("_mask") and "causal" not in key}
    assert masks.keys() == {f"model.{layer}.weight_mask" for layer in found.layers}
    assert len(masks) == PRUNABLE_LAYERS[model]
    for layer, module in found.layers.items():
        kept = torch.from_numpy(found.job.mask.kept(layer))
        assert torch.equal(masks[f"model.{layer}.weight_mask"], kept)
        assert torch.equal(module.weight != 0, kept)
        assert module.lora_B.any()  # a masked B would stay as it began
    assert [point["learning_rate"] for point in found.progress.curve] == pytest.approx([0.02, 0.015, 0.005])


def test_a_finished_training_takes_no_further_step(inputs, backend, tmp_path):
    trainer(inputs, backend, tmp_path, "llama", "sparse_to_sparse").run()
    again = trainer(inputs, backend, tmp_path, "llama", "sparse_to_sparse")
    again.run()
    assert (again.graph, again.progress.resumed_after, len(again.progress.curve)) == (None, [3], 3)


def test_the_time_of_a_save_is_in_no_step_s_seconds(inputs, backend, tmp_path, monkeypatch):
    def slowly(*arguments) -> None:
        write_mdl(*arguments)
        time.sleep(3)

    monkeypatch.setattr(trainer_module, "write_mdl", slowly)
    found = trainer(inputs, backend, tmp_path, "llama", "sparse_to_sparse", save_every=1)
    found.run()
    assert max(found.progress.seconds[1:]) < 3


def test_every_streamer_has_as_many_batches_and_together_they_are_the_whole(monkeypatch):
    examples = [Example([n, n + 1], 1) for n in range(5)]
    whole = [batch["ids"] for batch in evaluation_batches(examples, 4, 3)]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(trainer_module, "share_of", lambda size, rank=rank: (size // 2, rank))
        shares.append([batch["ids"] for batch in evaluation_batches(examples, 4, 3)])
    assert [len(share) for share in shares] == [2, 2]
    assert torch.cat(whole).equal(torch.cat([torch.cat(pair) for pair in zip(*shares, strict=True)]))
    assert not shares[1][1].any()


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.1, 0.0), (0.9, 0.5)])
def test_the_optimizer_and_its_schedule_are_the_torch_backend_s(backend, warmup, decay, kind):
    """Gradients of the size of eps, where its place in the formula shows."""
    settings = Training(steps=10, learning_rate=0.01, warmup_fraction=warmup, weight_decay=decay,
                        lr_scheduler_type=kind)  # fmt: skip
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimizer, schedule = optimizer_and_schedule(iter([ours]), settings)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=decay)
    stock = get_scheduler(kind, reference, round(warmup * 10), 10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        assert float(schedule.get_last_lr()[0]) == pytest.approx(stock.get_last_lr()[0], abs=1e-9)
        ours.grad = torch.randn(7, generator=generator) * 1e-7
        theirs.grad = ours.grad.clone()
        for part in (optimizer, schedule, reference, stock):
            part.step()
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-6, atol=1e-7)
    assert optimizer.param_groups[0]["eps"] == 1e-8


@pytest.mark.parametrize("k", [1, 2, 4])
def test_dense_experts_give_stock_mixtral_s_logits_and_gradients(k):
    kind, config = MODELS["mixtral"]
    config = copy.deepcopy(config)
    config.num_experts_per_tok = k
    torch.manual_seed(0)
    stock = kind(config)
    dense = copy.deepcopy(stock)
    for layer in dense.model.layers:
        layer.block_sparse_moe = DenseExperts(layer.block_sparse_moe)
    assert dense.state_dict().keys() == stock.state_dict().keys()
    ids = torch.arange(2 * 50).view(2, 50)
    logits = [model(ids).logits for model in (stock, dense)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=2e-6)
    for out in logits:
        out.square().mean().backward()
    for ours, theirs in zip(dense.parameters(), stock.parameters(), strict=True):
        wanted = torch.zeros_like(ours) if theirs.grad is None else theirs.grad  # an expert without a token
        torch.testing.assert_close(ours.grad, wanted, rtol=1e-4, atol=1e-6)


def test_of_equal_experts_the_first_are_taken():
    weights = top_k_weights(torch.tensor([[1.0, 3.0, 3.0, 3.0], [2.0, 2.0, 0.0, 5.0]]), 2)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.5, 0.5, 0.0]))
    expected = torch.softmax(torch.tensor([2.0, 5.0]), 0)
    torch.testing.assert_close(weights[1], torch.tensor([expected[0], 0.0, 0.0, expected[1]]))


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    content = {"identity": "i", "groups": [{"betas": (0.9, 0.999), "step": 3, "on": True, "none": None}],
               "state": {0: {"m": torch.randn(3, 2)},
                         1: {"m": torch.randn(2).bfloat16(), "t": torch.tensor(5)}}}  # fmt: skip
    write_mdl(tmp_path, 3, content)
    found = read_last_mdl(tmp_path, "i")
    assert found["groups"] == content["groups"]
    for number, tensors in content["state"].items():
        for name, tensor in tensors.items():
            assert torch.equal(found["state"][number][name], tensor)
            assert found["state"][number][name].dtype == tensor.dtype
    assert read_last_mdl(tmp_path, "of another training") is None


def test_a_state_with_a_pickled_object_is_not_read(tmp_path, capsys):
    cstorch.save({"identity": "i", "object": tmp_path}, str(tmp_path / "state_3.mdl"))
    assert read_last_mdl(tmp_path, "i") is None
    assert "not plain data" in capsys.readouterr().err
