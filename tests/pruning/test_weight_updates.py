"""Compare pruned weights with their definition by decoder layer, and check the files that appear together."""

import json
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparseft.axes.grid import PassFiles
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import decoder_layer_of, prunable_shapes
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.weights import memory_path
from sparseft.pruning import sparsegpt
from sparseft.pruning.hessian import output_error
from sparseft.pruning.masks.mask_file import check_mask, read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.masks.validation import validate
from sparseft.pruning.pruned_base import pruned_writer
from sparseft.pruning.sparsegpt import prune_layer, prune_weights
from sparseft.storage.bits import pack
from tiny_models import TYPICAL, save_tiny, stock
from torch import Tensor
from transformers import AutoModelForCausalLM

from masks import inputs_of, looking_at, pass_of, read_float32

EXAMPLES = [Example([(7 * i + 11 * j) % 250 for i in range(40 + 8 * j)], 1) for j in range(6)]
CALIBRATION = looking_at(EXAMPLES)
SETTINGS = Masks(sparsegpt_block=16)
METHOD = "unstructured_sparsegpt"


def decoder_layers(checkpoint: Checkpoint, base: Checkpoint) -> Iterator[dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """Yield for each decoder layer by prunable layer: W (fp64), what `base` has instead (fp32), and X^T X (fp64).

    The inputs X are those of stock transformers, in which the decoder layers before it have the weights of `base`."""
    model = stock(checkpoint.folder)
    for _, own in groupby(prunable_shapes(checkpoint), decoder_layer_of):
        inputs = inputs_of(model, list(own), EXAMPLES)
        weights = {layer: model.get_submodule(memory_path(checkpoint.architecture, layer)).weight for layer in inputs}
        written = {layer: torch.from_numpy(read_float32(base, f"{layer}.weight")) for layer in inputs}
        yield {layer: (weights[layer].detach().double(), written[layer], x.T @ x) for layer, x in inputs.items()}
        for layer, weight in weights.items():
            weight.data.copy_(written[layer])


def output_errors(places: PassFiles) -> dict[str, float | None]:
    layers = json.loads(places.report.read_text())["sparsities"][0]["layers"]
    return {row["layer"]: row.get("output_error") for row in layers}


@pytest.mark.parametrize("name", TYPICAL)
def test_each_block_is_pruned_on_the_inputs_that_the_pruned_blocks_before_it_give(name, tmp_path, places):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / "model", torch.float32))
    prune_weights(pass_of(checkpoint, METHOD, [50], places, SETTINGS, CALIBRATION))
    mask, errors = read_mask(places.masks[0]), output_errors(places)
    for layers in decoder_layers(checkpoint, Checkpoint(places.base)):
        for layer, (before, after, hessian) in layers.items():
            expected = prune_layer(layer, before, hessian, before.numel() // 2, block=16, damping=0.01)
            differing = torch.from_numpy(mask.kept(layer)) != expected.kept
            assert differing.float().mean() < 0.005, layer  # near-ties fall otherwise in fp32
            if not differing.any():
                assert (after - expected.weights).norm() < 1e-3 * expected.weights.norm(), layer
            assert errors[layer] == pytest.approx(output_error(before, after.double(), hessian), rel=1e-2), layer


@pytest.mark.parametrize(
    ("percent", "dtype"), [(1, torch.bfloat16), (50, torch.float16), (70, torch.float32), (99, torch.bfloat16)]
)
def test_the_counts_are_exact_and_the_base_obeys_its_mask(percent, dtype, tmp_path, places):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "model", dtype))
    prune_weights(pass_of(checkpoint, METHOD, [percent], places, SETTINGS, CALIBRATION))
    base = Checkpoint(places.base)
    mask = read_mask(places.masks[0])
    for layer, (rows, cols) in mask.shape.items():
        assert int((~mask.kept(layer)).sum()) == round(Fraction(percent * rows * cols, 100))
    assert validate(base, mask, base=base)["passed"]
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint.folder, base.folder))
    for name, weight in before.items():
        layer = name.removesuffix(".weight")
        assert after[name].dtype == dtype
        if layer in mask.shape:
            kept = torch.from_numpy(mask.kept(layer))
            assert (after[name] != weight)[kept].any()
        else:
            assert torch.equal(after[name], weight)


def test_more_damping_is_recorded_by_layer(tmp_path, places, monkeypatch, capsys):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "model"))
    factor = sparsegpt._factor
    fails = iter([False, True, True] + [False] * 20)
    monkeypatch.setattr(sparsegpt, "_factor", lambda *arguments: None if next(fails) else factor(*arguments))
    prune_weights(pass_of(checkpoint, METHOD, [50], places, SETTINGS, CALIBRATION))
    second = list(prunable_shapes(checkpoint))[1]
    report = json.loads(places.report.read_text())
    assert read_mask(places.masks[0]).meta["more_damping"] == {second: 1.0} == report["more_damping"]
    assert [row["damping"] for row in report["sparsities"][0]["layers"]] == [0.01, 1.0, *[0.01] * 12]
    assert capsys.readouterr().err.count(f"{second}: its Hessian is not positive definite") == 2


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
    with pruned_writer(pass_of(checkpoint, "unstructured", [50], places), {"task": "boolq"}) as writer:
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


@pytest.mark.parametrize("fault", ["infinity", "interrupted", "one layer less"])
def test_a_pruned_base_that_fails_leaves_nothing(fault, tmp_path, places):
    original = Checkpoint(save_tiny("llama", tmp_path / "model"))
    changed = halves(original)
    layer, (kept, bits) = next(iter(changed.items()))
    if fault == "infinity":
        changed[layer] = np.ones_like(kept), np.full_like(bits, 0x7F80)
    elif fault == "interrupted":
        # The block raises ValueError at this layer, after the others.
        changed[layer] = ()
    else:
        del changed[layer]
    with pytest.raises((InputError, ValueError)):
        prune(original, places, changed)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "model" not in path.parts]
