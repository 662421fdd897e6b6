"""Masks against the definition: the first round(s n) weights of a stable ascending sort by |w|."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparseft.axes.grid import PassFiles
from sparseft.axes.importances.ria import RIA
from sparseft.axes.methods import get_method
from sparseft.axes.selection import units
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning import mask_generator
from sparseft.pruning.calibration_examples import calibration_examples
from sparseft.pruning.mask_generator import random_source
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.sparsegpt import prune_weights
from tiny_models import PRUNABLE_LAYERS, SIZES, edited, save_tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from masks import NUMBER, ROWS, TASK, compute_masks, coupled_parts, inputs_of, looking_at, pass_of, read_float32

SPARSITIES = [0, 10, 30, 50, 70, 90]
PERCENTS = [0, 30, 50]


def reference(scopes: Tensor | np.ndarray, percent: int) -> np.ndarray:
    """Return the mask by torch's own stable sort of magnitudes in fp32. Each row of `scopes` is ranked by itself."""
    order = torch.as_tensor(scopes).float().abs().sort(dim=1, stable=True).indices
    lowest = order[:, : round(Fraction(percent * order.shape[1], 100))]
    return torch.ones_like(order, dtype=torch.bool).scatter(1, lowest, False).numpy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("scope", "percents"),
    [("layer", SPARSITIES), ("row", SPARSITIES), ("global", SPARSITIES), (4, [0, 25, 50, 75]), (8, [50, 75])],
)
def test_masks_equal_a_stable_sort_by_magnitude(tmp_path, dtype, scope, percents):
    """An integer is the size of the groups of N:M."""
    checkpoint = Checkpoint(save_tiny("mixtral", tmp_path / "m", dtype))
    weights = load_file(tmp_path / "m/model.safetensors")
    method = {4: "semistructured", 8: "semistructured8"}.get(scope, "unstructured")
    settings = {"scope": scope} if isinstance(scope, str) else {}
    for percent, mask in compute_masks(checkpoint, method, percents, **settings).items():
        assert len(mask.shape) == PRUNABLE_LAYERS["mixtral"]
        if scope == "global":
            whole = torch.cat([weights[f"{layer}.weight"].reshape(1, -1) for layer in mask.shape], dim=1)
            kept = np.concatenate([mask.kept(layer).reshape(1, -1) for layer in mask.shape], axis=1)
            np.testing.assert_array_equal(kept, reference(whole, percent))
            continue
        for layer, (_, cols) in mask.shape.items():
            size = {"layer": -1, "row": cols}.get(scope, scope)
            scopes = weights[f"{layer}.weight"].reshape((1, -1) if size == -1 else (-1, size))
            np.testing.assert_array_equal(mask.kept(layer).reshape(scopes.shape), reference(scopes, percent))


def test_random_masks_depend_on_the_seed_alone_and_are_the_same_on_every_machine(tiny_llama):
    first, other = (compute_masks(tiny_llama, "random", [50], seed=seed)[50] for seed in (3, 4))
    assert all((first.bits[layer] != other.bits[layer]).any() for layer in first.bits)
    # made by random_source itself on x86-64: numpy fixes Philox's raw bits for all machines and versions
    block = next(random_source({"model.layers.0.mlp.up_proj": (48, 32)}, 0)("model.layers.0.mlp.up_proj"))
    assert block[:4].tolist() == [1986921081, 3479913712, 1880959405, 1762501512]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Checkpoint:
    """A LLaMA with rows of an odd number of weights."""
    folder = tmp_path_factory.mktemp("odd") / "m"
    heads = {"head_dim": 6, "num_attention_heads": 3, "num_key_value_heads": 3}
    odd = {"hidden_size": 21, "intermediate_size": 33, **heads}
    LlamaForCausalLM(LlamaConfig(**SIZES | odd)).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.mark.parametrize("method", ["unstructured", "random", "structured"])
@pytest.mark.parametrize("scope", ["layer", "row", "global"])
def test_blocks_of_a_few_rows_and_several_threads_give_the_same_bits(odd, method, scope, monkeypatch):
    whole = compute_masks(odd, method, [10, 50, 70], scope=scope, head_share=1)
    monkeypatch.setattr(mask_generator, "BLOCK", 100)
    monkeypatch.setattr(units, "ROWS", 5)
    blocks = compute_masks(odd, method, [10, 50, 70], threads=4, scope=scope, head_share=1)
    assert any(cols % 2 for _, cols in whole[50].shape.values())
    for percent, mask in whole.items():
        assert all((mask.bits[layer] == blocks[percent].bits[layer]).all() for layer in mask.shape)


@pytest.mark.parametrize(
    ("method", "prune"),
    [("semistructured8", mask_generator.compute_masks), ("semistructured8_sparsegpt", prune_weights)],
)
def test_rows_that_groups_do_not_divide_are_refused(odd, places, method, prune):
    with pytest.raises(InputError, match="down_proj: its 33 columns .* divided into groups of 8; .*grid.methods"):
        prune(pass_of(odd, method, [50], places, calibration=looking_at([])))


def test_layers_of_two_dtypes_are_not_ranked_together(tmp_path):
    with edited(save_tiny("llama", tmp_path / "m")) as weights:
        weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].float()
    with pytest.raises(InputError, match="BF16 and F32.*scope"):
        compute_masks(Checkpoint(tmp_path / "m"), "unstructured", [50], scope="global")


def test_structured_masks_remove_the_coupled_channels_with_the_smallest_sums(tiny):
    mask = compute_masks(tiny, "structured", [50], head_share=1)[50]
    for parts in coupled_parts(tiny):
        scores = 0
        for part in parts:
            sizes = np.abs(read_float32(tiny, f"{part.layer}.weight")).sum(axis=1 - part.axis, dtype=np.float64)
            scores = scores + sizes.reshape(-1, part.width).sum(axis=1)
        kept = np.ones(len(scores), bool)
        kept[np.argsort(scores, kind="stable")[: len(scores) // 2]] = False
        for part in parts:
            channels = np.repeat(kept, part.width)
            expected = np.broadcast_to(channels[:, None] if part.axis == 0 else channels, mask.shape[part.layer])
            np.testing.assert_array_equal(mask.kept(part.layer), expected)


@pytest.mark.parametrize(
    ("value", "method"), [(float("nan"), "unstructured"), (float("-inf"), "structured"), (float("inf"), "random")]
)
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, method):
    with edited(save_tiny("llama", tmp_path / "m")) as weights:
        weights["model.layers.1.self_attn.v_proj.weight"][3, 3] = value
    with pytest.raises(InputError, match=r"layers\.1\.self_attn\.v_proj\.weight .*NaN or infinity"):
        compute_masks(Checkpoint(tmp_path / "m"), method, [50], seed=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("importance", "scope", "score"),
    [
        ("gradient", "layer", lambda weights, values, sums: values),
        ("taylor", "layer", lambda weights, values, sums: np.abs(weights) * values),
        ("fisher", "layer", lambda weights, values, sums: weights**2 * values),
        ("ria", "layer", RIA.score),
        ("wanda", "row", lambda weights, values, sums: np.abs(weights) * values),
        ("stade", "row", lambda weights, values, sums: np.abs(weights) * values),
    ],
)
def test_masks_of_one_pass_follow_the_scores_of_their_importance(tiny, computed, importance, scope, score):
    method = get_method(f"unstructured_{importance}")
    examples = calibration_examples(tiny, TASK, ROWS, NUMBER, 0)
    values = looking_at(examples).compute(tiny, method.importance.statistic)
    for percent, mask in computed(tiny, method.name, PERCENTS, sequential=False).items():
        for layer in mask.shape:
            weights = read_float32(tiny, f"{layer}.weight")
            sums = np.abs(weights).sum(axis=0, dtype=np.float64).astype(np.float32)
            ranked = score(weights, values[layer], sums)
            scopes = ranked if scope == "row" else ranked.reshape(1, -1)
            np.testing.assert_array_equal(mask.kept(layer).reshape(scopes.shape), reference(scopes, percent))


@pytest.mark.parametrize(
    ("importance", "score"),
    [
        # The weights of the last matrix of a block, (rows, cols), and its inputs, (tokens, cols) -> the scores of its
        # columns.
        ("wanda", lambda weights, inputs: np.abs(weights).sum(axis=0) * np.linalg.norm(inputs, axis=0)),
        ("activation", lambda weights, inputs: np.linalg.norm(inputs, axis=0)),
        ("flap", lambda weights, inputs: np.square(weights).sum(axis=0) * inputs.var(axis=0)),
    ],
)
def test_an_importance_of_inputs_scores_what_a_channel_computes(tmp_path, computed, importance, score):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "m", torch.float32))
    masks = computed(checkpoint, f"structured_{importance}_on_task", [20, 50])
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    examples = calibration_examples(checkpoint, TASK, ROWS, NUMBER, 0)
    lasts = [f"model.layers.{number}.mlp.down_proj" for number in range(2)]
    for last, inputs in inputs_of(model, lasts, examples).items():
        scores = score(read_float32(checkpoint, f"{last}.weight").astype(np.float64), inputs.numpy())
        # A channel has 96 of the 7,680 weights of a decoder layer.
        for percent, channels in ((20, 16), (50, 40)):
            kept = masks[percent].kept(last)[0]
            assert (~kept).sum() == channels
            assert scores[~kept].max() <= scores[kept].min() * (1 + 1e-4)


@pytest.mark.parametrize("method", ["unstructured_wanda", "semistructured_wanda", "unstructured_stade"])
def test_a_sequential_importance_prunes_as_it_goes(tiny, computed, method):
    going, dense = (computed(tiny, method, [0, 50], sequential=flag) for flag in (True, False))
    # Without an example.
    nothing = compute_masks(tiny, method, [0], looking_at(None))[0]
    assert all(np.array_equal(nothing.bits[layer], going[0].bits[layer]) for layer in going[0].shape)
    assert all(going[0].kept(layer).all() for layer in going[0].shape)
    assert (going[50].meta["sequential"], dense[50].meta["sequential"]) == (True, False)
    differing = {layer for layer in going[50].shape if (going[50].kept(layer) != dense[50].kept(layer)).any()}
    first = [layer for layer in going[50].shape if layer.startswith("model.layers.0.")]
    assert not differing & set(first)  # its own inputs are those of the dense model
    assert differing
    for layer, (rows, cols) in going[50].shape.items():
        groups = going[50].kept(layer).reshape(rows, -1, 4 if method.startswith("semi") else cols)
        assert (groups.sum(axis=2) == groups.shape[2] // 2).all()


def test_meta_says_what_was_looked_at(tiny_llama, computed):
    meta = computed(tiny_llama, "structured_taylor_on_task", [50])[50].meta
    assert (meta["task"], meta["calibration_examples"], meta["calibration_seed"]) == (TASK.name, NUMBER, 0)
    assert len(meta["train_sha256"]) == 64


@pytest.mark.long
def test_the_report_has_the_masks_counts_in_the_model_s_order(tmp_path, tiny_llama):
    paths = [tmp_path / "40.pt", tmp_path / "70.pt"]
    files = PassFiles(paths, tmp_path / "report.json", tmp_path / "plots/plot.png")
    report = mask_generator.compute_masks(pass_of(tiny_llama, "structured", [40, 70], files, Masks(head_share=1)))
    assert json.loads(files.report.read_text()) == json.loads(json.dumps(report))
    assert files.plot.read_bytes().startswith(b"\x89PNG")
    for path, part in zip(paths, report["sparsities"], strict=True):
        mask = read_mask(path)
        rows = [(row["layer"], row["kept"]) for row in part["layers"]]
        assert rows == [(name, int(mask.kept(name).sum())) for name in mask.shape]
        assert part["reached"] == mask.meta["reached"]
