"""Masks of checkpoints that other tools pruned: their own definitions, saved by transformers, against what is inferred."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from project import call_script, succeed
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import read_mask
from sparseft.masks.validation import validate
from sparseft.pruning.imported import PrunedSource, infer_layer
from tiny_models import TYPICAL, change_json, save_tiny
from transformers import AutoModelForCausalLM

# The share of each layer's weights that are zero in the base already.
NATURAL = 0.005
UP = "model.layers.1.mlp.up_proj"
NORM = "model.norm.weight"


def save(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the weights of a checkpoint folder again."""
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def base_with_zeros(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    """Write a tiny model whose prunable layers have zeros of their own, one in two of them negative."""
    save_tiny(name, folder, dtype)
    weights = load_file(folder / "model.safetensors")
    for layer in prunable_shapes(Checkpoint(folder)):
        weight = weights[f"{layer}.weight"].view(-1)
        weight[:: round(1 / NATURAL)] = 0
        weight[:: round(2 / NATURAL)] *= -1
    save(weights, folder)
    return Checkpoint(folder)


def wanda(W: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune half of each row as locuslab/wanda's prune_wanda does; return the mask (True = pruned) and the weights."""
    scaler_row = (x.float() ** 2).mean(0)  # (cols,)
    metric = W.float().abs() * scaler_row.sqrt().reshape(1, -1)
    pruned = torch.zeros_like(metric, dtype=torch.bool)
    indices = torch.sort(metric, dim=-1, stable=True)[1][:, : W.shape[1] // 2]
    pruned.scatter_(1, indices, True)
    return pruned, W.masked_fill(pruned, 0)


def sparsegpt(W: torch.Tensor, x: torch.Tensor, blocksize: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune half of each block as IST-DASLab/sparsegpt's fasterprune does; return the mask and the updated weights."""
    rows, columns = W.shape
    weights = W.float().clone()
    H = 2 / len(x) * x.float().T @ x.float()
    H += 0.01 * H.diagonal().mean() * torch.eye(columns)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    pruned = torch.zeros(rows, columns, dtype=torch.bool)
    for start in range(0, columns, blocksize):
        block = slice(start, start + blocksize)
        w = weights[:, block].clone()
        errors = torch.zeros_like(w)
        scores = w**2 / inverse[block, block].diagonal().reshape(1, -1) ** 2
        pruned[:, block] = scores <= scores.flatten().sort()[0][scores.numel() // 2]
        for i in range(w.shape[1]):
            q = w[:, i].masked_fill(pruned[:, start + i], 0)
            errors[:, i] = (w[:, i] - q) / inverse[start + i, start + i]
            w[:, i:] -= (
                errors[:, i : i + 1] @ inverse[start + i : start + i + 1, start + i : block.stop][:, : w.shape[1] - i]
            )
            w[:, i] = q
        weights[:, block] = w
        weights[:, block.stop :] -= errors @ inverse[block, block.stop :]
    return pruned, weights.to(W.dtype)


def merged_adapter(W: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune as wanda, and merge a LoRA product under W != 0, as SQFT's SparsePEFT does."""
    pruned, sparse = wanda(W, x)
    A, B = 0.1 * torch.randn(4, W.shape[1]), 0.1 * torch.randn(W.shape[0], 4)
    return pruned, (sparse.float() + (B @ A) * (sparse != 0)).to(W.dtype)


def prune_with(tool: Callable, base: Checkpoint, folder: Path, **options: object) -> dict[str, np.ndarray]:
    """Prune the base with a tool and save it as transformers does; return the tool's own mask by layer, True = kept."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype="auto")
    state = model.state_dict()
    kept = {}
    for layer, (_, cols) in prunable_shapes(base).items():
        weight = torch.from_numpy(base.read(f"{layer}.weight").view(np.int16)).view(torch.bfloat16)
        pruned, weights = tool(weight, torch.randn(64, cols))
        kept[layer] = ~pruned.numpy()
        set_weight(state, layer, weight, weights)
    model.save_pretrained(folder, **options)
    return kept


def set_weight(state: dict[str, torch.Tensor], layer: str, old: torch.Tensor, new: torch.Tensor) -> None:
    """Write a layer's weights into a loaded model, in which the experts of a mixture are one tensor."""
    if f"{layer}.weight" in state:
        state[f"{layer}.weight"].copy_(new)
        return
    experts = [
        part for stacked in state.values() if stacked.ndim == 3 for expert in stacked for part in expert.split(len(old))
    ]
    next(part for part in experts if part.shape == old.shape and torch.equal(part, old)).copy_(new)


@pytest.mark.parametrize("name", TYPICAL)
@pytest.mark.parametrize(("tool", "changes_weights"), [(wanda, False), (sparsegpt, True), (merged_adapter, True)])
def test_the_mask_is_the_tools_own_but_for_natural_zeros_which_are_counted(tmp_path, name, tool, changes_weights):
    base = base_with_zeros(name, tmp_path / "base")
    kept_by_tool = prune_with(tool, base, tmp_path / "pruned")
    pruned = PrunedSource.open(f"path:{tmp_path / 'pruned'}", base)
    pruned.check_outside()
    saved = Checkpoint(tmp_path / "pruned")
    for layer, kept in kept_by_tool.items():
        was_zero = base.read_float32(f"{layer}.weight") == 0
        is_zero = saved.read_float32(f"{layer}.weight") == 0
        found = pruned.layer(layer)
        np.testing.assert_array_equal(found.kept, kept | (was_zero & is_zero))
        assert found.natural_zeros == (was_zero & is_zero).sum() > 0
        assert (found.kept & ~kept).sum() <= found.natural_zeros
        np.testing.assert_array_equal(found.weights, saved.read(f"{layer}.weight"))
        changed = saved.read_float32(f"{layer}.weight") != base.read_float32(f"{layer}.weight")
        assert found.changed_weights == (changed & ~is_zero).sum()
        assert bool(found.changed_weights) == changes_weights


def test_minus_zero_is_zero():
    base = np.array([[1.0, 0.0, -0.0, 2.0, 0.0, 3.0]], np.float32)
    pruned = np.array([[-0.0, 0.0, 0.0, 2.0, 4.0, 0.0]], np.float32)
    found = infer_layer(base.view(np.uint32), pruned.view(np.uint32))
    assert found.kept.tolist() == [[False, True, True, True, True, False]]
    assert (found.natural_zeros, found.changed_weights) == (2, 1)


@pytest.mark.parametrize("sharded", ["base", "pruned"])
def test_base_and_checkpoint_may_be_divided_into_files_in_different_ways(tmp_path, sharded):
    base = base_with_zeros("llama", tmp_path / "base")
    kept = prune_with(wanda, base, tmp_path / "pruned", **({"max_shard_size": "40KB"} if sharded == "pruned" else {}))
    if sharded == "base":
        AutoModelForCausalLM.from_pretrained(base.folder, dtype="auto").save_pretrained(
            tmp_path / "shards", max_shard_size="40KB"
        )
        base = Checkpoint(tmp_path / "shards")
    pruned = PrunedSource.open(f"path:{tmp_path / 'pruned'}", base)
    assert {len(base.files), len(pruned.checkpoint.files)} > {1}
    pruned.check_outside()
    for layer in kept:
        was_zero = base.read_float32(f"{layer}.weight") == 0
        np.testing.assert_array_equal(pruned.layer(layer).kept, kept[layer] | was_zero)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_wider_dtype_passes_if_no_value_changes(tmp_path, dtype):
    base = base_with_zeros("llama", tmp_path / "base")
    kept = prune_with(wanda, base, tmp_path / "pruned")
    shutil.copytree(tmp_path / "pruned", tmp_path / "wide")
    weights = load_file(tmp_path / "pruned/model.safetensors")
    # Every power of two in this range is a value of all three dtypes.
    powers = {
        name: torch.exp2(weight.float().abs().log2().round().clamp(-14, 14)) * weight.sign()
        for name, weight in weights.items()
    }
    save({name: weight.to(dtype) for name, weight in powers.items()}, tmp_path / "wide")
    wide = PrunedSource.open(f"path:{tmp_path / 'wide'}", base)
    np.testing.assert_array_equal(wide.layer(UP).kept, kept[UP] | (base.read_float32(f"{UP}.weight") == 0))
    powers[f"{UP}.weight"][0, 1] = 1 + 2**-10
    save({name: weight.to(dtype) for name, weight in powers.items()}, tmp_path / "wide")
    with pytest.raises(
        InputError, match=rf"^path:{tmp_path}/wide: {UP}.weight is in F\d+ and .* BF16.*; prepare the model in float"
    ):
        PrunedSource.open(f"path:{tmp_path / 'wide'}", base).layer(UP)


@pytest.fixture
def pruned_copy(tmp_path, tiny_llama) -> Path:
    """Return a folder with a copy of the tiny LLaMA, which a test changes."""
    return Path(shutil.copytree(tiny_llama.folder, tmp_path / "pruned"))


def change_tensor(folder: Path, name: str) -> None:
    """Change one value of a tensor by its last bit or so."""
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[3] *= 1.01
    save(weights, folder)


@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"])
def test_a_change_outside_the_prunable_layers_is_refused_and_named(tiny_llama, pruned_copy, name):
    source = PrunedSource.open(f"path:{pruned_copy}", tiny_llama)
    source.check_outside()
    change_tensor(pruned_copy, name)
    with pytest.raises(
        InputError, match=rf"^path:{pruned_copy}: {name} differs from .*; give the model that the tool pruned"
    ):
        source.check_outside()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [NORM, f"{UP}.weight"])
def test_a_weight_that_is_not_finite_is_refused_with_its_source_and_its_name(tiny_llama, pruned_copy, name, value):
    weights = load_file(pruned_copy / "model.safetensors")
    weights[name].view(-1)[3] = value
    save_file(weights, pruned_copy / "model.safetensors", metadata={"format": "pt"})
    source = PrunedSource.open(f"path:{pruned_copy}", tiny_llama)
    with pytest.raises(InputError, match=rf"^path:{pruned_copy}: {name} holds NaN or infinity; repair or replace"):
        source.check_outside()
        source.layer(UP)


def test_a_base_that_was_damaged_after_its_preparation_is_refused_as_far_as_it_is_read(tmp_path, pruned_copy):
    base = Checkpoint(save_tiny("llama", tmp_path / "damaged"))
    weights = load_file(base.folder / "model.safetensors")
    weights[f"{UP}.weight"].view(-1)[3] = float("nan")
    save_file(weights, base.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"^{base.folder}: {UP}.weight holds NaN or infinity"):
        PrunedSource.open(f"path:{pruned_copy}", Checkpoint(base.folder)).layer(UP)


def test_a_checkpoint_that_was_rounded_to_another_dtype_is_told_how_to_prepare_its_model(tmp_path):
    base = Checkpoint(save_tiny("llama", tmp_path / "base", torch.float32))
    save_tiny("llama", tmp_path / "pruned", torch.bfloat16)
    with pytest.raises(
        InputError, match=r"differs from .*; prepare the model in bfloat16 .*, or give the model that the tool pruned"
    ):
        PrunedSource.open(f"path:{tmp_path / 'pruned'}", base).check_outside()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rms_norm_eps": 1e-5}, "its config.json says rms_norm_eps 1e-05, and that of .* says 1e-06"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "says rope_parameters .*500000"),
        ({"rope_parameters": None, "rope_theta": 5e5}, "says rope_parameters .*500000"),
        ({"num_hidden_layers": 1}, "tensors unknown to it"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoConfig": "code.Config"}}, "its config.json says auto_map"),
        (
            {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "mine"},
            "asks for code of its own, which is never run",
        ),
        ({"model_type": "mine"}, "transformers refuses its config.json"),
        ({"rope_parameters": [1]}, "transformers refuses its config.json"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
    ],
)
def test_another_configuration_is_refused(tiny_llama, pruned_copy, changes, fault):
    change_json(pruned_copy / "config.json", **changes)
    with pytest.raises(InputError, match=fault):
        PrunedSource.open(f"path:{pruned_copy}", tiny_llama)


def test_a_configuration_of_another_transformers_passes(tiny_llama, pruned_copy):
    content = json.loads((pruned_copy / "config.json").read_text())
    theta = content["rope_parameters"]["rope_theta"]
    change_json(pruned_copy / "config.json", rope_parameters=None, rope_theta=theta, transformers_version="4.28.0",
                torch_dtype="float16", dtype=None, use_cache=False, pad_token_id=0, _name_or_path="llama")  # fmt: skip
    PrunedSource.open(f"path:{pruned_copy}", tiny_llama).check_outside()


def test_another_model_is_refused_by_its_shapes(tmp_path, tiny_llama):
    save_tiny("llama", tmp_path / "wide", changes={"intermediate_size": 64})
    with pytest.raises(
        InputError, match=r"down_proj.weight is \(32, 64\), and \(32, 48\) in .*; give the model that the tool pruned"
    ):
        PrunedSource.open(f"path:{tmp_path / 'wide'}", tiny_llama)


def test_a_checkpoint_without_zeros_is_not_told_to_be_one_at_zero_percent(tmp_path, call):
    code, said = call_script("import_pruned.py", **call | {"source": f"path:{tmp_path / 'base'}"})
    assert code == 2
    assert "0.00 % of the prunable weights are pruned, not 50 %; correct the source" in said


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, tiny_llama, pruned_copy):
    with pytest.raises(InputError, match="no such model folder"):
        PrunedSource.open(f"path:{tmp_path / 'nowhere'}", tiny_llama)
    (pruned_copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no such file|no \\*.safetensors"):
        PrunedSource.open(f"path:{pruned_copy}", tiny_llama)


@pytest.fixture
def call(tmp_path) -> dict:
    """Return the flags of import_pruned.py for a base with zeros and its checkpoint pruned by wanda, both written here."""
    base = base_with_zeros("llama", tmp_path / "base")
    prune_with(wanda, base, tmp_path / "pruned")
    return {"model_path": base.folder, "source": f"path:{tmp_path / 'pruned'}", "name": "wanda", "sparsity": 0.5,
            "output_dir": tmp_path / "masks", "pruned_dir": tmp_path / "bases"}  # fmt: skip


@pytest.mark.long
def test_the_script_writes_mask_report_plots_and_a_base_with_the_tools_weights(tmp_path, call):
    said = succeed("import_pruned.py", **call)
    original, sparse = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "pruned")
    base = Checkpoint(tmp_path / "bases/sparsity50_imported_wanda")
    mask = read_mask(tmp_path / "masks/masks_sparsity50_imported_wanda.pt")
    zeros = [
        (original.read_float32(f"{layer}.weight") == 0, sparse.read_float32(f"{layer}.weight") == 0)
        for layer in mask.shape
    ]
    natural = [int((was & now).sum()) for was, now in zeros]
    total = sum(rows * cols for rows, cols in mask.shape.values())
    # Wanda prunes half of each row. The natural zeros among them stay in the mask.
    assert mask.meta["reached"] == pytest.approx(0.5 - sum(natural) / total)
    assert {name: mask.meta[name] for name in ("inferred", "source", "source_digest", "natural_zeros", "changed_weights")} == {
        "inferred": True, "source": call["source"], "source_digest": sparse.digest, "natural_zeros": sum(natural), "changed_weights": 0
    }  # fmt: skip
    assert f"{sum(natural)} natural zeros kept" in said
    report = json.loads((tmp_path / "masks/report_imported_wanda_sparsity50.json").read_text())
    assert [row["natural_zeros"] for row in report["sparsities"][0]["layers"]] == natural
    assert (report["natural_zeros"], report["base"], report["original"]) == (sum(natural), base.digest, original.digest)
    assert len(list((tmp_path / "masks/plots").iterdir())) == 3
    for name in original.tensors:
        np.testing.assert_array_equal(base.read_float32(name), sparse.read_float32(name))
    assert validate(base, mask, base=base)["passed"]


def refused(tmp_path: Path, call: dict, **changes: object) -> str:
    """Call the script, which must refuse its input and write nothing; return the one line."""
    code, said = call_script("import_pruned.py", **{**call, **changes})
    assert (code, said.count("\n")) == (2, 1), said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name not in ("base", "pruned")]
    return said


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sparsity": 0.6}, r"pruned: 49\.\d\d % of the prunable weights are pruned, not 60 %; describe it as the checkpoint at [45][09] %"),
        ({"sparsity": 0}, "imported.wanda.0: .*greater than 0"),
        ({"sparsity": 0.505}, "--sparsity 0.505: not a sparsity"),
        ({"name": "Wanda"}, "'Wanda' is not the name of imported checkpoints"),
        ({"source": "pypi:llama==1"}, "masks: imported.wanda.50: .*pattern"),
        ({"source": "path:nowhere"}, "nowhere: no such model folder"),
    ],
)  # fmt: skip
def test_the_script_refuses_in_one_line_and_writes_nothing(tmp_path, call, changes, fault):
    assert re.search(fault, refused(tmp_path, call, **changes))


def test_an_output_over_an_input_is_refused(tmp_path, call):
    assert "is an input, or lies in one" in refused(tmp_path, call, pruned_dir=tmp_path / "pruned")
    assert "is an input, or lies in one" in refused(tmp_path, call, output_dir=tmp_path / "base/masks")


def test_a_mask_is_not_computed_under_the_name_of_an_imported_one(tmp_path, call):
    code, said = call_script("compute_masks.py", model_path=call["model_path"], output_dir=tmp_path / "masks", sparsity=0.5, method="imported_wanda")  # fmt: skip
    assert (code, "use import_pruned.py" in said) == (2, True), said


def test_a_weight_that_is_not_finite_is_refused(tmp_path, call):
    weights = load_file(tmp_path / "pruned/model.safetensors")
    weights[f"{UP}.weight"][1, 1] = float("inf")
    save_file(weights, tmp_path / "pruned/model.safetensors", metadata={"format": "pt"})
    assert f"{UP}" in refused(tmp_path, call)
