"""A model that is trained on the GPU and the merged model, which the CPU writes, give the same logits there."""

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.language_model.model import load_model
from sparseft.language_model.weights import unfuse_experts
from sparseft.lora.adapted_model import trained_model
from sparseft.lora.adapter import write_adapter
from sparseft.lora.merge import merge
from sparseft.training.settings import Training
from sparseft.training.trained_part import model_to_train
from torch import Tensor, nn

from masks import compute_masks

SETTINGS = Training(lora_r=16, lora_alpha=32.0)
IDS = torch.arange(3, 51).reshape(2, 24)


def logits_of(model: nn.Module, device: torch.device) -> Tensor:
    """Return the logits of IDS, on the CPU."""
    with torch.no_grad():
        return model(IDS.to(device)).logits.cpu()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_the_logits_before_and_after_the_merge_are_equal_to_the_bit(tmp_path, save_wide, device, note, name, dtype):
    base = Checkpoint(save_wide(name, tmp_path / "base", dtype))
    mask = compute_masks(base, "unstructured", [50], seed=0)[50]
    torch.manual_seed(0)
    part, _ = model_to_train(base, mask, "sparse_to_sparse", SETTINGS, device)
    for layer in part.layers.values():
        nn.init.normal_(layer.lora_B, std=0.02)
    provenance = {"mask_sha256": "m", "mode": "sparse_to_sparse"}
    factors = {name: layer.factors() for name, layer in part.layers.items()}
    write_adapter(tmp_path / "adapter", factors, SETTINGS, base="base", sparseft=provenance)
    record = merge(base, mask, "m", tmp_path / "adapter", tmp_path / "merged")
    merged, _ = load_model(tmp_path / "merged", device)
    # The fused product of gate and up may be rounded in another way.
    unfuse_experts(merged)
    before = logits_of(part.loss.model, device)
    # Expert layers are fused in the merged file, so the record promises nothing for them.
    assert record["as_trained"] == (name != "mixtral")
    assert torch.equal(before, logits_of(merged, device))
    reread, _, _ = trained_model(base, mask, "m", tmp_path / "adapter", device)
    assert torch.equal(before, logits_of(reread, device))
    pruned, _ = load_model(base.folder, device)
    assert (before - logits_of(pruned, device)).abs().max() > 0.05
    cpu, _, _ = trained_model(base, mask, "m", tmp_path / "adapter", torch.device("cpu"))
    gap = (before - logits_of(cpu, torch.device("cpu"))).abs().max() / before.float().std()
    note(f"logits of {name} in {dtype}: the largest difference from the CPU is {gap:.1e} of their standard deviation")
