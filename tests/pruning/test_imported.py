"""Masks that are inferred of checkpoints that other tools pruned, beside the definitions of these tools."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from project import refused, succeed
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.pruning.imported import infer_mask
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.validation import validate
from tiny_models import TYPICAL, change_json, edited, loaded, save_tiny

from masks import read_float32

# The share of each layer's weights that are zero in the base already.
NATURAL = 0.005
UP = "model.layers.1.mlp.up_proj"
NORM = "model.norm.weight"


def base_with_zeros(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    """Write a tiny model whose prunable layers have zeros of their own, one in two of them negative."""
    with edited(save_tiny(name, folder, dtype)) as weights:
        for layer in prunable_shapes(Checkpoint(folder)):
            weight = weights[f"{layer}.weight"].view(-1)
            weight[:: round(1 / NATURAL)] = 0
            weight[:: round(2 / NATURAL)] *= -1
    return Checkpoint(folder)


def wanda_and_adapter(W: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune half of each row as locuslab/wanda's prune_wanda does, and merge a LoRA product under W != 0, as SQFT's
    SparsePEFT does. Return the mask (True = pruned) and the weights."""
    scaler_row = (x.float() ** 2).mean(0)  # (cols,)
    metric = W.float().abs() * scaler_row.sqrt().reshape(1, -1)
    indices = torch.sort(metric, dim=-1, stable=True)[1][:, : W.shape[1] // 2]
    pruned = torch.zeros_like(metric, dtype=torch.bool).scatter_(1, indices, True)
    sparse = W.masked_fill(pruned, 0)
    A, B = 0.1 * torch.randn(4, W.shape[1]), 0.1 * torch.randn(W.shape[0], 4)
    return pruned, (sparse.float() + (B @ A) * (sparse != 0)).to(W.dtype)


def two_of_four(W: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the 2 largest weights of every 4 in a row, as torch sorts them."""
    order = W.float().abs().view(len(W), -1, 4).argsort(dim=2, stable=True)
    pruned = torch.zeros_like(order, dtype=torch.bool).scatter_(2, order[..., :2], True).view_as(W)
    return pruned, W.masked_fill(pruned, 0)


def prune_with(tool: Callable, base: Checkpoint, folder: Path, **options: object) -> dict[str, np.ndarray]:
    """Prune the base with a tool and save it as transformers does; return the tool's own mask by layer, True = kept."""
    torch.manual_seed(1)
    shutil.copytree(base.folder, folder)
    kept = {}
    with edited(folder) as weights:
        for layer, (_, cols) in prunable_shapes(base).items():
            pruned, weights[f"{layer}.weight"] = tool(weights[f"{layer}.weight"], torch.randn(64, cols))
            kept[layer] = ~pruned.numpy()
    model = loaded(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, **options)
    return kept


def imported(base: Checkpoint, pruned: Path, out: Path) -> dict:
    """Return the flags of import_pruned.py for a checkpoint that a tool called `tool` pruned to half."""
    return {"model_path": base.folder, "source": f"path:{pruned}", "name": "tool", "sparsity": 0.5,
            "output_dir": out / "masks", "pruned_dir": out / "bases"}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", TYPICAL)
def test_the_mask_is_the_tools_own_but_for_natural_zeros_which_are_counted(tmp_path, name):
    base = base_with_zeros(name, tmp_path / "base")
    # The two may be divided into files in different ways.
    kept_by_tool = prune_with(wanda_and_adapter, base, tmp_path / "pruned", max_shard_size="40KB")
    saved = Checkpoint(tmp_path / "pruned")
    assert len(saved.files) > 1
    said = succeed("import_pruned.py", **imported(base, saved.folder, tmp_path))
    mask = read_mask(tmp_path / "masks/masks_sparsity50_imported_tool.pt")
    report = json.loads((tmp_path / "masks/report_imported_tool_sparsity50.json").read_text())
    written = Checkpoint(tmp_path / "bases/sparsity50_imported_tool")
    counts = {"natural_zeros": 0, "changed_weights": 0}
    for layer in mask.shape:
        before, after = (read_float32(checkpoint, f"{layer}.weight") for checkpoint in (base, saved))
        natural = (before == 0) & (after == 0)
        np.testing.assert_array_equal(mask.kept(layer), kept_by_tool[layer] | natural)
        np.testing.assert_array_equal(read_float32(written, f"{layer}.weight"), after)
        counts["natural_zeros"] += int(natural.sum())
        counts["changed_weights"] += int(((before != after) & (after != 0)).sum())
    assert all(counts.values())
    assert written.tensors.keys() == base.tensors.keys()
    assert validate(written, mask, base=written)["passed"]
    meta = {"inferred": True, "source": f"path:{saved.folder}", "source_digest": saved.digest, "base": written.digest,
            "original": base.digest, **counts}  # fmt: skip
    assert mask.meta | meta == mask.meta
    assert report | meta == report
    assert f"{meta['natural_zeros']} natural zeros kept" in said


def test_minus_zero_is_zero():
    base = np.array([[1.0, 0.0, -0.0, 2.0, 0.0, 3.0]], np.float32)
    pruned = np.array([[-0.0, 0.0, 0.0, 2.0, 4.0, 0.0]], np.float32)
    kept, counts = infer_mask(base.view(np.uint32), pruned.view(np.uint32))
    assert kept.tolist() == [[False, True, True, True, True, False]]
    assert counts == {"natural_zeros": 2, "changed_weights": 1}


@pytest.mark.parametrize("from_parent", [True, False])
def test_a_stated_pattern_prunes_natural_zeros_and_names_the_first_group_that_breaks_it(tmp_path, from_parent):
    base = base_with_zeros("llama", tmp_path / "base")
    kept_by_tool = prune_with(two_of_four, base, tmp_path / "pruned")
    pair = imported(base, tmp_path / "pruned", tmp_path) | {"pattern": "2:4"}
    if not from_parent:
        del pair["source"]
        pair["model_path"] = tmp_path / "pruned"
    said = succeed("import_pruned.py", **pair)
    assert ("natural zeros pruned" in said) == from_parent
    mask = read_mask(tmp_path / "masks/masks_sparsity50_imported_tool.pt")
    saved = Checkpoint(tmp_path / "pruned")
    assert (mask.meta["stated_pattern"], mask.meta["source_digest"]) == ("2:4", saved.digest)
    # Without a parent, nothing tells natural zeros from pruned weights.
    assert ("natural_zeros" in mask.meta) == from_parent
    for layer, kept in kept_by_tool.items():
        np.testing.assert_array_equal(mask.kept(layer), kept & (read_float32(saved, f"{layer}.weight") != 0))
    with edited(tmp_path / "pruned") as weights:
        weights[f"{UP}.weight"][5, 8:12] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    line = refused(tmp_path, "import_pruned.py", **pair | {"output_dir": tmp_path / "m", "pruned_dir": tmp_path / "b"})
    what = f"{UP}, row 5, columns 8 to 11: 3 weights are not zero, and 2:4 allows 2; correct the pattern"
    assert f"{tmp_path}/pruned: {what}" in line


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> Path:
    """Return a folder with a base with zeros and its checkpoint that wanda pruned."""
    folder = tmp_path_factory.mktemp("halved")
    prune_with(wanda_and_adapter, base_with_zeros("llama", folder / "base"), folder / "pruned")
    return folder


@pytest.fixture
def pair(tmp_path, halved) -> dict:
    """Return the flags of import_pruned.py for copies of a base and its pruned checkpoint, which a test may change."""
    shutil.copytree(halved, tmp_path, dirs_exist_ok=True)
    return imported(Checkpoint(tmp_path / "base"), tmp_path / "pruned", tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_wider_dtype_passes_if_no_value_changes(tmp_path, pair, dtype):
    with edited(tmp_path / "pruned") as weights:
        for name, weight in weights.items():
            # Every power of two in this range is a value of all three dtypes.
            rounded = torch.exp2(weight.float().abs().log2().round().clamp(-14, 14)) * weight.sign()
            weights[name] = (rounded if ".layers." in name and weight.ndim == 2 else weight).to(dtype)
    succeed("import_pruned.py", **pair)
    meta = read_mask(tmp_path / "masks/masks_sparsity50_imported_tool.pt").meta
    assert meta["reached"] == pytest.approx(0.5, abs=0.01)
    with edited(tmp_path / "pruned") as weights:
        weights[f"{UP}.weight"][0, 1] = 1 + 2**-10
    line = refused(tmp_path, "import_pruned.py", **pair | {"output_dir": tmp_path / "m", "pruned_dir": tmp_path / "b"})
    what = f"path:{tmp_path}/pruned: {UP}.weight is in F"
    assert re.search(rf"{what}\d+ and .* BF16.*; give the model that the tool pruned, in the same dtype", line)


REFUSED = {
    r"49\.\d\d % of the prunable weights are pruned, not 60 %; correct the sparsity": {"sparsity": 0.6},
    "rms_norm_eps is 1e-05, and 1e-06 in .*; give the model that the tool pruned": {"rms_norm_eps": 1e-5},
    f"{NORM} differs from .*; give the model that the tool pruned": {NORM: 2.0},
}


@pytest.mark.parametrize(("fault", "changes"), REFUSED.items())
def test_what_is_not_the_pruned_model_is_refused(tmp_path, pair, fault, changes):
    """A change is one of a flag, of a weight, or of the configuration."""
    ((name, value),) = changes.items()
    if name == NORM:
        with edited(tmp_path / "pruned") as weights:
            weights[NORM][3] = value
    elif name not in pair:
        change_json(tmp_path / "pruned/config.json", **changes)
    assert re.search(fault, refused(tmp_path, "import_pruned.py", **pair | (changes if name in pair else {})))


def test_a_configuration_of_another_transformers_passes(tmp_path, pair):
    theta = json.loads((tmp_path / "pruned/config.json").read_text())["rope_parameters"]["rope_theta"]
    change_json(tmp_path / "pruned/config.json", rope_parameters=None, rope_theta=theta, transformers_version="4.28.0",
                torch_dtype="float16", dtype=None, use_cache=False, pad_token_id=0, _name_or_path="llama")  # fmt: skip
    succeed("import_pruned.py", **pair)
