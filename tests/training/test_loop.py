"""The training loop on tiny models in fp32."""

import math

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.config import Training
from sparseft.errors import InputError
from sparseft.lora.experts import memory_path, unfuse_experts
from sparseft.lora.masked_lora import attach, merged_weight
from sparseft.tasks import get_task
from sparseft.training.batches import collate, encode, shuffled
from sparseft.training.loop import fit
from sparseft.training.loss import answer_loss_sum, mean_answer_loss
from transformers import AutoModelForCausalLM, AutoTokenizer

from masks import compute_masks

CPU = torch.device("cpu")


def prepare(checkpoint: Checkpoint, mode: str, task: str = "boolq_mini"):
    """A model at 50 % sparsity in fp32 with adapters, its layers by name, and examples."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    unfuse_experts(model)
    mask = compute_masks(checkpoint, "unstructured", [50], seed=0)[50]
    paths = {layer: memory_path(layer) for layer in prunable_layers(checkpoint)}
    layers = attach(model, lambda layer: torch.from_numpy(mask.kept(layer)), paths, mode, 4, 2.0)
    rows = get_task(task).generate("train", 32, 0)
    return model, layers, encode(rows, get_task(task), AutoTokenizer.from_pretrained(checkpoint.folder), 512)


def mean_loss(model, batch):
    """Of a whole batch at once, with its gradient."""
    return answer_loss_sum(model, collate(batch)) / collate(batch).targets.numel()


def run(checkpoint: Checkpoint, mode: str, settings: Training):
    """Train; returns the record, the layers by name and the model."""
    model, layers, examples = prepare(checkpoint, mode)
    parameters = [matrix for layer in layers.values() for matrix in (layer.lora_A, layer.lora_B)]
    batches = shuffled(examples, settings.batch_size, settings.steps, 0)
    return fit(model, parameters, batches, settings, CPU), layers, model


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_the_micro_batch_size_changes_nothing_but_rounding(tiny, mode):
    settings = [Training(steps=3, batch_size=8, micro_batch_size=size, learning_rate=0.01) for size in (2, 8)]
    (one, few, _), (other, whole, _) = (run(tiny, mode, setting) for setting in settings)
    assert [p["loss"] for p in one["loss_curve"]] == pytest.approx([p["loss"] for p in other["loss_curve"]], rel=1e-5)
    for layer, matrices in few.items():
        for name in ("lora_A", "lora_B"):
            ours, theirs = getattr(matrices, name), getattr(whole[layer], name)
            close = (ours - theirs).abs() < 1e-4 * theirs.abs().max()
            assert close.float().mean() > 0.99  # where a gradient is all rounding, AdamW makes a step of its sign


def test_three_steps_are_those_of_adamw_written_out(tiny_llama):
    settings = Training(steps=3, batch_size=4, micro_batch_size=2, learning_rate=0.01, warmup_fraction=0.0,
                        max_grad_norm=0.5, weight_decay=0.1)  # fmt: skip
    _, ours, _ = run(tiny_llama, "sparse_to_sparse", settings)
    model, layers, examples = prepare(tiny_llama, "sparse_to_sparse")
    parameters = [matrix for layer in layers.values() for matrix in (layer.lora_A, layer.lora_B)]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for t, batch in enumerate(shuffled(examples, 4, 3, 0), start=1):
        gradients = torch.autograd.grad(mean_loss(model, batch), parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        assert norm > 0.5  # or nothing would be clipped
        rate = 0.005 * (1 + math.cos(math.pi * (t - 1) / 3))
        for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
            g = g * 0.5 / norm
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).add_(g * g, alpha=0.001)
            step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            p.data.mul_(1 - rate * 0.1).add_(step, alpha=-rate)
    for name, layer in layers.items():
        for ours_, theirs in ((ours[name].lora_A, layer.lora_A), (ours[name].lora_B, layer.lora_B)):
            assert ((ours_ - theirs).abs() < 1e-4 * theirs.abs().max()).float().mean() > 0.99


@pytest.mark.parametrize(("steps", "fraction"), [(20, 0.1), (10, 0.5), (5, 0.0)])
def test_the_learning_rate_warms_up_to_its_peak_and_falls_as_a_cosine(tiny_llama, steps, fraction):
    settings = Training(steps=steps, batch_size=2, micro_batch_size=2, learning_rate=0.01, warmup_fraction=fraction)
    rates = [point["learning_rate"] for point in run(tiny_llama, "sparse_to_dense", settings)[0]["loss_curve"]]
    warmup = round(fraction * steps)
    assert rates[:warmup] == pytest.approx([0.01 * step / warmup for step in range(warmup)])
    assert rates[warmup] == max(rates) == 0.01
    half_turns = [math.pi * step / (steps - warmup) for step in range(steps - warmup)]
    assert rates[warmup:] == pytest.approx([0.005 * (1 + math.cos(angle)) for angle in half_turns])
    assert 0 < rates[-1] < 0.0025


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_the_loss_falls(tiny, mode):
    settings = Training(steps=40, batch_size=8, micro_batch_size=8, learning_rate=0.02)
    record, _, _ = run(tiny, mode, settings)
    losses = [point["loss"] for point in record["loss_curve"]]
    assert losses[0] > 4
    assert record["final_loss"] == pytest.approx(sum(losses[-4:]) / 4)
    assert record["final_loss"] < 0.3 * losses[0]


def test_the_first_loss_is_the_pruned_model_s(tiny):
    model, _, examples = prepare(tiny, "sparse_to_sparse")
    batch = next(shuffled(examples, 8, 1, 0))
    settings = Training(steps=1, batch_size=8, micro_batch_size=4)
    record, _, _ = run(tiny, "sparse_to_sparse", settings)
    assert record["loss_curve"][0]["loss"] == pytest.approx(mean_answer_loss(model, batch, 8, CPU), rel=1e-5)


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_training_moves_the_adapters_alone_and_no_pruned_weight(tiny, mode):
    model, layers, _ = prepare(tiny, mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, layers, model = run(tiny, mode, Training(steps=3, batch_size=4, micro_batch_size=4, learning_rate=0.05))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    adapters = {name for name in before if ".lora_" in name}
    assert moved <= adapters
    assert len(moved) > 0.9 * len(adapters)  # an expert that no token was sent to stays
    mask = compute_masks(tiny, "unstructured", [50], seed=0)[50]
    for name, layer in layers.items():
        pruned = ~torch.from_numpy(mask.kept(name))
        assert not layer.weight[pruned].any()
        if mode == "sparse_to_sparse":
            effective = merged_weight(layer.weight, layer.keep, layer.lora_A.detach(), layer.lora_B.detach(), 2.0)
            assert not effective[pruned].any()
            x = torch.randn(3, layer.weight.shape[1])
            torch.testing.assert_close(layer(x), x @ effective.T)


def test_speed_is_of_the_examples_and_tokens_without_padding(tiny_llama):
    record, _, _ = run(tiny_llama, "sparse_to_dense", Training(steps=10, batch_size=4, micro_batch_size=2))
    _, _, examples = prepare(tiny_llama, "sparse_to_dense")
    lengths = [len(example.ids) for example in examples]
    per_sample = record["tokens_per_second"] / record["samples_per_second"]
    assert 0.8 * min(lengths) < per_sample < 1.2 * max(lengths)
    assert record["train_seconds"] * record["samples_per_second"] > 10


@pytest.mark.parametrize("scale", [1e38, 1e20, 1e10])
def test_a_training_that_explodes_is_told(tiny_llama, scale):
    model, layers, examples = prepare(tiny_llama, "sparse_to_dense")
    for layer in layers.values():
        layer.scale = scale
    parameters = [matrix for layer in layers.values() for matrix in (layer.lora_A, layer.lora_B)]
    settings = Training(steps=9, batch_size=4, micro_batch_size=4, learning_rate=1.0, warmup_fraction=0.0)
    with pytest.raises(
        InputError, match=r"the loss is .*, its gradient (nan|inf) at step \d; lower training\.learning_rate"
    ):
        fit(model, parameters, shuffled(examples, 4, 9, 0), settings, CPU)
