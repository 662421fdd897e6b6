"""Train tiny models in fp32."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import collate, encode
from sparseft.models.language_model.model import load_model
from sparseft.training.loop import step_seed, train_part
from sparseft.training.lora.carried_mask import carried_mask
from sparseft.training.progress import Progress, SavedState
from sparseft.training.settings import Training
from sparseft.training.trained_part import AdapterPart, WeightsPart, model_to_train
from tiny_models import save_tiny
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM

from masks import compute_masks

CPU = torch.device("cpu")


@dataclass
class Prepared:
    part: AdapterPart | WeightsPart
    data: dict
    settings: Training
    state: Path | None

    def train(self) -> Progress:
        saved, evaluate = SavedState(self.state), self.eval_loss
        accelerator = Accelerator(cpu=True)
        return train_part(self.part, self.data["train"], self.settings, 0, accelerator, evaluate=evaluate, saved=saved)

    def fit(self) -> dict:
        return self.train().record(self.settings.batch_size)

    def eval_loss(self) -> float:
        return self.part.eval_loss(self.data["validation"], 4, Accelerator(cpu=True))


def prepare(checkpoint: Checkpoint, mode: str, settings: Training, state: Path | None = None) -> Prepared:
    """Return a part of a model at 50 % sparsity, in fp32."""
    torch.manual_seed(0)
    mask = compute_masks(checkpoint, "unstructured", [50], seed=0)[50]
    part, tokenizer = model_to_train(checkpoint, mask, mode, settings, CPU)
    task = BY_NAME["boolq_mini"]
    data = {split: encode(task.generate(split, n, 0), task, tokenizer, 512)
            for split, n in (("train", 32), ("validation", 8))}  # fmt: skip
    part.teacher = load_model(checkpoint.folder, CPU)[0] if settings.distillation else None
    return Prepared(part, data, settings, state)


def run(checkpoint: Checkpoint, mode: str, settings: Training):
    loop = prepare(checkpoint, mode, settings)
    return loop.fit(), loop.part, loop.part.loss.model


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_training_moves_only_the_adapters_and_no_pruned_weight(tiny, mode):
    settings = Training(steps=3, batch_size=4, micro_batch_size=4, learning_rate=0.05)
    before = {name: value.clone() for name, value in prepare(tiny, mode, settings).part.loss.model.state_dict().items()}
    _, part, model = run(tiny, mode, settings)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    adapters = {name for name in before if ".lora_" in name}
    assert moved <= adapters
    assert len(moved) > 0.9 * len(adapters)  # an expert that no token was sent to stays
    mask = compute_masks(tiny, "unstructured", [50], seed=0)[50]
    for name, layer in part.layers.items():
        kept = torch.from_numpy(mask.kept(name))
        assert torch.equal(carried_mask(layer.weight), kept)
        assert not layer.weight[~kept].any()


def test_speed_is_of_the_examples_and_tokens_without_padding(tiny_llama):
    settings = Training(steps=10, batch_size=4, micro_batch_size=2)
    record, _, _ = run(tiny_llama, "sparse_to_dense", settings)
    assert record["tokens_per_second_overall"] * record["train_seconds"] == pytest.approx(record["tokens"])
    lengths = [len(example.ids) for example in prepare(tiny_llama, "sparse_to_dense", settings).data["train"]]
    for name in ("per_second", "per_second_overall"):
        per_sample = record[f"tokens_{name}"] / record[f"samples_{name}"]
        assert 0.8 * min(lengths) < per_sample < 1.2 * max(lengths)
    assert record["train_seconds"] * record["samples_per_second_overall"] == pytest.approx(40)


def test_a_training_that_explodes_is_refused(tiny_llama):
    settings = Training(steps=9, batch_size=4, micro_batch_size=4, learning_rate=1.0, warmup_fraction=0.0)
    loop = prepare(tiny_llama, "sparse_to_dense", settings)
    for layer in loop.part.layers.values():
        layer.scale = 1e20
    with pytest.raises(InputError, match=r"loss is .*gradient.* (nan|inf) at step \d; .*learning_rate"):
        loop.fit()


def test_the_training_of_a_float16_model_scales_its_loss(tmp_path):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path, torch.float16))
    settings = Training(steps=1, batch_size=2, micro_batch_size=2)
    assert prepare(checkpoint, "sparse_to_sparse", settings).train().loss_scale == 2.0**16


def matrices(part) -> list[torch.Tensor]:
    return [matrix.detach() for matrix in part.parameters]


@pytest.mark.long
@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("option", [{"gradient_checkpointing": True}, {"cache_weights": True}])
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_what_saves_memory_or_time_changes_no_bit(tiny, mode, option):
    settings = Training(steps=3, batch_size=4, micro_batch_size=2, learning_rate=0.01)
    plain, other = (run(tiny, mode, settings.model_copy(update=update)) for update in ({}, option))
    assert plain[0]["loss_curve"] == other[0]["loss_curve"]
    assert all(map(torch.equal, matrices(plain[1]), matrices(other[1])))


def test_evaluation_losses_come_at_intervals_and_change_nothing(tiny_llama):
    settings = Training(steps=5, batch_size=4, micro_batch_size=4, learning_rate=0.01, lora_dropout=0.2)
    often = settings.model_copy(update={"eval_every": 2})
    (plain, part, _), (watched, others, _) = (run(tiny_llama, "sparse_to_dense", own) for own in (settings, often))
    assert [point["step"] for point in watched["eval_curve"]] == [2, 4]
    assert watched["eval_curve"][0]["eval_loss"] > watched["eval_curve"][1]["eval_loss"]
    assert plain["eval_curve"] == []
    # The evaluation has no dropout.
    loop = prepare(tiny_llama, "sparse_to_dense", often)
    assert loop.eval_loss() == loop.eval_loss()
    assert plain["loss_curve"] == watched["loss_curve"]
    assert all(map(torch.equal, matrices(part), matrices(others)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "dropout"), [("sparse_to_sparse", 0.0), ("sparse_to_dense", 0.3), ("full_sparse_to_sparse", 0.0)]
)
def test_a_stopped_training_goes_on_to_the_same_bits(tiny, tmp_path, monkeypatch, mode, dropout):
    settings = Training(steps=6, batch_size=4, micro_batch_size=2, learning_rate=0.01, save_every=2, eval_every=3,
                        lora_dropout=dropout)  # fmt: skip
    whole, stopped = prepare(tiny, mode, settings), prepare(tiny, mode, settings, tmp_path / "state.pt")
    expected = whole.fit()

    def fail_at_five(seed, step, process):
        if step == 5:
            raise KeyboardInterrupt
        return step_seed(seed, step, process)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sparseft.training.loop.step_seed", fail_at_five)
        stopped.fit()
    resumed = prepare(tiny, mode, settings, tmp_path / "state.pt")
    record = resumed.fit()
    assert (record["resumed_after_steps"], expected["resumed_after_steps"]) == ([4], [])
    assert record["loss_curve"] == expected["loss_curve"]
    assert record["eval_curve"] == expected["eval_curve"]
    assert all(map(torch.equal, matrices(resumed.part), matrices(whole.part)))


def parts_of(loop: Prepared, stock: torch.nn.Module, batch: list) -> list[torch.Tensor]:
    """Return the cross-entropy and the divergence of a whole batch, from torch's functions and a stock teacher."""
    whole = collate(batch)
    own, of_teacher = (
        model(input_ids=whole.ids, use_cache=False).logits.flatten(0, 1)[whole.positions]
        for model in (loop.part.loss.model, stock)
    )
    log_q, log_p = ((logits / 3.0).log_softmax(1) for logits in (own, of_teacher.detach()))
    return [F.cross_entropy(own, whole.targets), F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)]


@pytest.mark.long
@pytest.mark.parametrize("weight", [None, 0.3, 1.0])
def test_the_gradient_of_a_step_is_autograd_s_of_the_loss_of_the_whole_batch(tiny, weight):
    distillation = {"weight": weight, "temperature": 3.0} if weight else None
    settings = Training(steps=1, batch_size=8, micro_batch_size=2, max_grad_norm=1e9, distillation=distillation)
    loops = [prepare(tiny, "sparse_to_sparse", settings) for _ in range(2)]
    batch = loops[0].data["train"][:8]
    parts = parts_of(loops[0], AutoModelForCausalLM.from_pretrained(tiny.folder).eval(), batch)
    assert min(parts) > 0.02
    # With the weight 1, there is no cross-entropy in the loss.
    loss = {None: parts[0], 0.3: 0.7 * parts[0] + 2.7 * parts[1], 1.0: 9.0 * parts[1]}[weight]
    expected = torch.autograd.grad(loss, loops[0].part.parameters)
    named = {"loss": loss} | (dict(zip(("cross_entropy", "divergence"), parts, strict=True)) if weight else {})
    found = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: found.append([own.grad.clone() for own in optimizer.param_groups[0]["params"]])
    )
    # The loss of the second is scaled. A power of two changes no digit.
    loops[1].part.dtype = torch.float16
    for loop in loops:
        loop.data["train"] = batch
        (point,) = loop.train().curve
        for name, value in named.items():
            assert point[name] == pytest.approx(value.item(), rel=1e-4)
    handle.remove()
    for ours, scaled, theirs in zip(*found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        assert torch.equal(ours, scaled)
