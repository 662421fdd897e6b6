"""Train the weights of tiny models themselves, under their mask."""

from itertools import islice

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import collate
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.validation import validate
from sparseft.training.job import TrainingJob
from sparseft.training.lora.adapted_model import trained_model
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from test_loop import prepare
from tiny_models import save_tiny
from torch.nn.utils import clip_grad_norm_

from masks import compute_masks

CPU = torch.device("cpu")
SETTINGS = Training(steps=4, batch_size=4, micro_batch_size=2, learning_rate=0.01, warmup_fraction=0.0,
                    weight_decay=0.1, max_grad_norm=0.5)  # fmt: skip


def looped(checkpoint, mode, settings=SETTINGS):
    return prepare(checkpoint, mode, settings), compute_masks(checkpoint, "unstructured", [50], seed=0)[50]


def hand_on(loop, base, mask, mode, folder):
    origin = {"mode": mode, "mask_sha256": "m"}
    job = TrainingJob(base, mask, mode, 0, loop.settings, BY_NAME["boolq_mini"], {}, 8, folder, origin)
    loop.part.write(job, is_main=True)


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
    for batch in islice(settings.batches(loop.data["train"], 0), 4):
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
    assert set(loop.part.local) == set(tiny_llama.tensors)
    for name, ours in loop.part.local.items():
        torch.testing.assert_close(ours, weights[name], rtol=0, atol=1e-5)
    zeros = torch.cat([(loop.part.local[name] == 0)[~of_layer] for name, of_layer in kept.items()])
    assert zeros.all() == (mode == "full_sparse_to_sparse")


@pytest.mark.long
@pytest.mark.parametrize("mode", ["full_sparse_to_sparse", "full_sparse_to_dense"])
@pytest.mark.parametrize(("name", "dtype"), [("llama", torch.bfloat16), ("mixtral", torch.float16)])
def test_the_merged_model_has_the_trained_weights_and_no_others_and_passes_the_proof(tmp_path, name, dtype, mode):
    base = Checkpoint(save_tiny(name, tmp_path / "base", dtype))
    # Steps below the last place of 16 bits add up in fp32.
    settings = SETTINGS.model_copy(update={"learning_rate": 2e-3, "steps": 8, "train": ["norms"]})
    loop, mask = looped(base, mode, settings)
    loop.fit()
    hand_on(loop, base, mask, mode, tmp_path / "weights")
    record = merge(base, mask, "m", tmp_path / "weights", tmp_path / "merged")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("base", "merged"))
    for key, weight in before.items():
        own = loop.part.local.get(key)
        expected = weight if own is None else own.detach().to(dtype)
        assert torch.equal(after[key], expected)
        assert (own is None) != bool((after[key] != weight).any())
    outside = {key for key in before if "norm" in key}
    assert (set(record["trained_outside"]), record["as_trained"]) == (outside, name == "llama")
    merged, lifts = Checkpoint(tmp_path / "merged"), mode == "full_sparse_to_dense"
    checks = {"base": base, "trained_outside": record["trained_outside"], "lifts_mask": lifts}
    report = validate(merged, mask, **checks)
    assert (report["passed"], len(report["not_checked"])) == (True, 1 + lifts)
    assert (report["expected_sparsity"] == 0) == lifts
    assert not validate(merged, mask, **checks | {"trained_outside": [min(outside)]})["passed"]
    ids = torch.arange(40)[None]
    evaluated = trained_model(base, mask, "m", tmp_path / "weights", CPU)[0]
    with torch.no_grad():
        assert torch.equal(evaluated(ids).logits, load_model(merged.folder, CPU)[0](ids).logits)


def test_trained_weights_of_another_base_that_are_not_finite_or_lack_a_layer_are_refused(tmp_path, tiny_models):
    base, mode = Checkpoint(tiny_models["llama"]), "full_sparse_to_sparse"
    loop, mask = looped(base, mode)
    hand_on(loop, base, mask, mode, tmp_path / "weights")
    file, name = tmp_path / "weights/model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors, metadata = load_file(file), safe_open(file, "pt").metadata()
    for model, changed, line in (
        (Checkpoint(tiny_models["qwen3"]), tensors[name], "does not fit .*give the base"),
        (base, tensors[name] * torch.nan, "up_proj merges to NaN"),
        (base, None, "up_proj.weight is missing"),
    ):
        own = {key: changed if key == name else value for key, value in tensors.items()}
        save_file({key: value for key, value in own.items() if value is not None}, file, metadata)
        with pytest.raises(InputError, match=line):
            merge(model, mask, "m", tmp_path / "weights", tmp_path / "merged")
