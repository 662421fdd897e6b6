"""A pruned base: the mask and the updated weights of one sparsity, written together."""

import json

import numpy as np
import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import check_mask, pack, read_mask
from sparseft.masks.validation import validate
from sparseft.pruning.pruned_base import pruned_writer
from sparseft.study.config import Masks
from sparseft.study.passes import PassFiles
from tiny_models import TYPICAL, save_tiny
from transformers import AutoModelForCausalLM


def halves(checkpoint: Checkpoint, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return a mask of each layer that keeps half of its weights, and the negative weights as bits."""
    generator = np.random.default_rng(seed)
    result = {}
    for layer, (rows, cols) in prunable_shapes(checkpoint).items():
        kept = generator.permuted(np.arange(rows * cols) % 2 == 0).reshape(rows, cols)
        bits = checkpoint.read(f"{layer}.weight")
        result[layer] = kept, bits ^ bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return result


def prune(checkpoint: Checkpoint, places: PassFiles, changed: dict) -> None:
    with pruned_writer(checkpoint, "unstructured", 50, Masks(), places, {"task": "boolq"}) as writer:
        for layer, (kept, bits) in reversed(changed.items()):
            writer.write(layer, kept, bits, damping=float(len(layer)))
        writer.meta["natural_zeros"] = 7


@pytest.mark.parametrize("name", TYPICAL)
def test_the_pruned_base_has_the_new_weights_under_the_mask_and_every_other_byte(name, tmp_path, places):
    original = Checkpoint(save_tiny(name, tmp_path / "model", max_shard_size="40KB"))
    assert len(original.files) > 1
    changed = halves(original)
    prune(original, places, changed)
    base, mask = Checkpoint(places.base), read_mask(places.masks[0])
    assert base.prepared and base.digest != original.digest
    assert [file.stat().st_size for file in base.files] == [file.stat().st_size for file in original.files]
    for tensor in original.tensors.values():
        expected = original.read(tensor.name)
        if (layer := tensor.name.removesuffix(".weight")) in changed:
            kept, bits = changed[layer]
            expected = np.where(kept, bits, 0)
            np.testing.assert_array_equal(mask.bits[layer], pack(kept))
        np.testing.assert_array_equal(base.read(tensor.name), expected)
    AutoModelForCausalLM.from_pretrained(places.base)
    check_mask(mask, places.masks[0], prunable_shapes(base), base.digest)
    with pytest.raises(InputError, match="computed from other weights"):
        check_mask(mask, places.masks[0], prunable_shapes(original), original.digest)
    assert validate(base, mask, base=base)["passed"]
    assert (mask.meta["original"], mask.meta["natural_zeros"], mask.meta["task"]) == (original.digest, 7, "boolq")
    manifest, report = (json.loads(file.read_text()) for file in (places.base / "manifest.json", places.report))
    assert (manifest["original"], manifest["method"], manifest["sparsity"]) == (original.digest, "unstructured", 0.5)
    assert report["natural_zeros"] == 7 and report["base"] == base.digest
    assert [row["damping"] for row in report["sparsities"][0]["layers"]] == [len(layer) for layer in changed]


@pytest.mark.parametrize("fault", ["infinity", "one layer less"])
def test_a_pruned_base_that_fails_leaves_nothing(fault, tmp_path, places):
    original = Checkpoint(save_tiny("llama", tmp_path / "model"))
    changed = halves(original)
    layer, (kept, bits) = next(iter(changed.items()))
    if fault == "infinity":
        changed[layer] = np.ones_like(kept), np.full_like(bits, 0x7F80)
    else:
        del changed[layer]
    with pytest.raises((InputError, ValueError)):
        prune(original, places, changed)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "model" not in path.parts]


def test_the_weights_may_be_negative_zeros_but_what_is_pruned_is_not(tmp_path, places):
    original = Checkpoint(save_tiny("llama", tmp_path / "model", dtype=torch.float32))
    changed = {layer: (kept, np.full_like(bits, 1 << 31)) for layer, (kept, bits) in halves(original).items()}
    prune(original, places, changed)
    for layer, (kept, _) in changed.items():
        written = Checkpoint(places.base).read(f"{layer}.weight")
        np.testing.assert_array_equal(written, np.where(kept, np.uint32(1 << 31), 0))
