"""Train the weights of tiny models themselves, under their mask."""

from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from sparseft.language_model.batches import collate, encode, shuffled
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import load_model
from sparseft.study.schedule import Training
from sparseft.tasks import BY_NAME
from sparseft.training.loop import Loop
from sparseft.training.trained_part import model_to_train
from torch.nn.utils import clip_grad_norm_

from masks import compute_masks

CPU = torch.device("cpu")
SETTINGS = Training(steps=4, batch_size=4, micro_batch_size=2, learning_rate=0.01, warmup_fraction=0.0,
                    weight_decay=0.1, max_grad_norm=0.5)  # fmt: skip


def looped(checkpoint, mode, settings=SETTINGS, state=None):
    """Return a loop that trains the weights of a model at 50 % sparsity, and its mask."""
    mask = compute_masks(checkpoint, "unstructured", [50], seed=0)[50]
    loss, tokenizer, part = model_to_train(checkpoint, mask, mode, settings, CPU)
    task = BY_NAME["boolq_mini"]
    data = {"train": encode(task.generate("train", 32, 0), task, tokenizer, 512)}
    return Loop(loss, part, data, settings, 0, Accelerator(cpu=True), 4, state), mask


@pytest.mark.parametrize("mode", ["full_sparse_to_sparse", "full_sparse_to_dense"])
def test_a_training_is_plain_adamw_with_the_mask_put_on_again_after_every_step(tiny_llama, mode):
    settings = SETTINGS.model_copy(update={"train": ["norms", "embeddings"]})
    loop, mask = looped(tiny_llama, mode, settings)
    record = loop.fit()
    model = load_model(tiny_llama.folder, CPU)[0]
    kept = {f"{layer}.weight": torch.from_numpy(mask.kept(layer)) for layer in mask.shape}
    weights = dict(model.named_parameters())

    def put_on():
        with torch.no_grad():
            for name, of_layer in kept.items():
                weights[name] *= of_layer

    put_on()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    losses = []
    for batch in islice(shuffled(loop.data["train"], settings, 0), 4):
        loss = AnswerLoss(model)(collate(batch)).mean()
        loss.backward()
        for name, of_layer in kept.items() if mode == "full_sparse_to_sparse" else ():
            # Or the pruned weights would count in the norm.
            weights[name].grad *= of_layer
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if mode == "full_sparse_to_sparse":
            put_on()
        losses.append(loss.item())
    assert [point["loss"] for point in record["loss_curve"]] == pytest.approx(losses, rel=1e-5)
    assert set(loop.part.own) == set(tiny_llama.tensors)
    for name, ours in loop.part.own.items():
        torch.testing.assert_close(ours, weights[name], rtol=0, atol=1e-5)
    zeros = torch.cat([(loop.part.own[name] == 0)[~of_layer] for name, of_layer in kept.items()])
    assert zeros.all() == (mode == "full_sparse_to_sparse")
