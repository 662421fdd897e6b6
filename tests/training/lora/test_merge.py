"""The merge adds B A, writes exact zeros, copies all other bytes, and has the trained model's logits."""

import warnings
from pathlib import Path

import pytest
import torch
from peak import Peak
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from sparseft.axes.grid import Run
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.storage.hashes import sha256
from sparseft.training.lora.adapted_model import masks_on, unpacked
from sparseft.training.lora.adapter import read_adapter, write_adapter
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from sparseft.training.trained_part import model_to_train
from tiny_models import change_json, save_tiny
from transformers import AutoModelForCausalLM

from masks import compute_masks

SETTINGS = Training(lora_r=3, lora_alpha=6.0)
IDS = torch.arange(3, 51).reshape(2, 24)


def trained(checkpoint: Checkpoint, mask, mode: str, folder: Path, origin: dict | None = None):
    """Write an adapter with random B, and return its model."""
    torch.manual_seed(0)
    part, _ = model_to_train(checkpoint, mask, mode, SETTINGS, torch.device("cpu"))
    # As a training would.
    for layer in part.layers.values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    factors = {name: layer.factors() for name, layer in part.layers.items()}
    write_adapter(folder, factors, SETTINGS, base="base", sparseft=origin or {"mask_sha256": "m"})
    return part.loss.model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("method", "percent"), [("unstructured", 50), ("structured", 50), ("dense", 0)])
@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral", "qwen2"])
def test_the_merge_is_the_formula_and_touches_nothing_else(tmp_path, name, method, percent, dtype):
    base = Checkpoint(save_tiny(name, tmp_path / "base", dtype))
    mask = compute_masks(base, method, [percent], seed=0, head_share=1)[percent]
    trained(base, mask, "sparse_to_dense", tmp_path / "adapter")
    record = merge(base, mask, "m", tmp_path / "adapter", tmp_path / "out")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("base", "out"))
    pairs, scale, *_ = read_adapter(tmp_path / "adapter", base)
    assert before.keys() == after.keys()
    assert scale == 2.0 == record["scale"]
    for key, W in before.items():
        layer = key.removesuffix(".weight")
        if layer not in mask.shape:
            assert torch.equal(after[key], W)
            continue
        A, B = pairs[layer]
        kept = torch.from_numpy(mask.kept(layer))
        full = torch.where(kept, torch.addmm(W.double(), B.double(), A.double(), alpha=scale), 0)
        half = torch.finfo(dtype).eps / 2  # of a rounding to nearest; 1e-6: of the sum in fp32
        assert ((after[key].double() - full).abs() <= half * full.abs() + 1e-6).all()
        assert not torch.signbit(after[key][~kept]).any()
        assert (after[key] != W)[kept].float().mean() > 0.5  # B A is in it
    assert record["outputs"]["model.safetensors"] == sha256(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("mode", "method", "percent"), [
    ("sparse_to_dense", "dense", 0), ("sparse_to_dense", "unstructured", 50), ("sparse_to_sparse", "structured", 50),
])  # fmt: skip
def test_peft_loads_the_adapter_over_the_pruned_base_and_gives_our_logits(tmp_path, name, mode, method, percent):
    base = Checkpoint(save_tiny(name, tmp_path / "base", torch.float32))
    mask = compute_masks(base, method, [percent], seed=0, head_share=1)[percent]
    model = trained(base, mask, mode, tmp_path / "adapter")
    merge(base, mask, "m", None, tmp_path / "pruned")
    merge(base, mask, "m", tmp_path / "adapter", tmp_path / "out")
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unexpected keyword")
        peer = PeftModel.from_pretrained(pruned, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, peer(IDS).logits)
    ours, theirs = load_file(tmp_path / "out/model.safetensors"), peer.merge_and_unload().state_dict()
    for layer in prunable_layers(base):
        kept = torch.from_numpy(mask.kept(layer))
        torch.testing.assert_close(ours[f"{layer}.weight"], theirs[f"{layer}.weight"] * kept)


def test_an_adapter_of_stock_peft_is_merged_to_peft_s_weights_under_the_mask(tmp_path):
    base = Checkpoint(save_tiny("mistral", tmp_path / "base", torch.float32))
    targets = ["q_proj", "o_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    peer = get_peft_model(AutoModelForCausalLM.from_pretrained(base.folder, dtype="auto"), config)
    peer.save_pretrained(tmp_path / "adapter")
    mask = compute_masks(base, "unstructured", [50], seed=0)[50]
    merge(base, mask, "m", tmp_path / "adapter", tmp_path / "out")
    before, ours = load_file(base.files[0]), load_file(tmp_path / "out/model.safetensors")
    theirs = peer.merge_and_unload().state_dict()
    for layer in prunable_layers(base):
        kept, key = torch.from_numpy(mask.kept(layer)), f"{layer}.weight"
        torch.testing.assert_close(ours[key], theirs[key] * kept)
        assert torch.equal(ours[key], before[key] * kept) == (layer.rpartition(".")[2] not in targets)


def test_blocks_of_any_size_merge_to_the_same_files_whose_hashes_are_recorded(tmp_path, tiny_llama, monkeypatch):
    mask = compute_masks(tiny_llama, "unstructured", [50], seed=0)[50]
    trained(tiny_llama, mask, "sparse_to_sparse", tmp_path / "adapter")
    records = []
    for block in (1 << 20, 100):
        monkeypatch.setattr("sparseft.training.lora.merge.BLOCK", block)
        monkeypatch.setattr("sparseft.models.checkpoints.rewriting.BLOCK", block)
        records.append(merge(tiny_llama, mask, "m", tmp_path / "adapter", tmp_path / str(block)))
        assert records[-1]["outputs"] == Checkpoint(tmp_path / str(block)).hashes()
    assert records[0] == records[1]


RUN = Run("llama", "boolq", "unstructured", 50, "sparse_to_dense", 0)
OTHER_SEED = RUN.id.replace("seed0", "seed1")
OWN = {"mask_sha256": "m", "run_id": RUN.id, "mode": RUN.mode}
PLAIN = "not a plain LoRA adapter"


@pytest.mark.parametrize(("changes", "origin", "line"), [
    ({"r": 6}, OWN, "not the matrices of rank 6"),
    ({"target_modules": ["q_proj", "k_proj"]}, OWN, r"not the matrices .*\(first: .*down_proj.lora_A"),
    ({"target_modules": "(a+)+"}, OWN, PLAIN),
    ({"layers_to_transform": [1]}, OWN, PLAIN),
    ({"bias": "all"}, OWN, PLAIN),
    ({"init_lora_weights": "pissa"}, OWN, PLAIN),
    ({}, OWN | {"run_id": OTHER_SEED}, f"run_id is {OTHER_SEED}, .*{RUN.id}"),
    ({}, {"mask_sha256": "m"}, "its run_id is None"),
    ({}, OWN | {"mask_sha256": "other"}, "its mask_sha256 is other, not m"),
])  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, tiny_llama, changes, origin, line):
    mask = compute_masks(tiny_llama, "unstructured", [50], seed=0)[50]
    trained(tiny_llama, mask, "sparse_to_dense", tmp_path / "adapter", origin)
    change_json(tmp_path / "adapter/adapter_config.json", **changes)
    with pytest.raises(InputError, match=line):
        merge(tiny_llama, mask, "m", tmp_path / "adapter", tmp_path / "out", RUN)
    assert not (tmp_path / "out").exists()


def test_a_gpu_gets_the_bits_of_a_mask_and_unpacks_them(tmp_path):
    base = Checkpoint(save_tiny("llama", tmp_path / "base", changes={"intermediate_size": 99}))
    mask = compute_masks(base, "unstructured", [50], seed=0)[50]
    with Peak() as peak:
        for layer, (rows, cols) in mask.shape.items():
            kept = masks_on(mask, torch.device("meta"))(layer)
            assert (kept.shape, kept.dtype) == ((rows, cols), torch.bool)
            assert torch.equal(unpacked(torch.from_numpy(mask.bits[layer]), cols), torch.from_numpy(mask.kept(layer)))
    assert peak.sent == sum(bits.nbytes for bits in mask.bits.values())
