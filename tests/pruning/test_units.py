"""Scores of experts and decoder layers beside stock transformers, and the smaller model beside its cut-up parent."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.grid import PassFiles
from sparseft.axes.patterns.experts import EXPERTS
from sparseft.axes.patterns.layers import LAYERS
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import check_tensors, prunable_shapes
from sparseft.models.language_model.batches import Example
from sparseft.pruning.masks.mask_file import read_checked_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.masks.validation import validate
from sparseft.pruning.smaller import remove_units
from sparseft.pruning.unit_scores import score_units
from tiny_models import change_json, loaded, save_tiny
from torch import Tensor, nn

from masks import looking_at, pass_of

# Of different lengths, so that a batch would have padding. Two of them are longer than a window.
EXAMPLES = [Example([(7 * i + 11 * j) % 250 for i in range(20 + 17 * j)], 5 + j) for j in range(5)]
IDS = torch.arange(3, 243).reshape(2, 120)
LAYERED = {
    "num_hidden_layers": 7,
    # transformers writes it, and a smaller model must have its own.
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 3,
}


def described(checkpoint: Checkpoint) -> PrunableModel:
    return PrunableModel(checkpoint.architecture, checkpoint.config, prunable_shapes(checkpoint), "models.m")


def scores_of(method: str, checkpoint: Checkpoint, settings: Masks | None = None) -> np.ndarray:
    return score_units(pass_of(checkpoint, method, [50], PassFiles([], Path()), settings, looking_at(EXAMPLES)))


def pruned(method: str, percent: int, checkpoint: Checkpoint, places) -> tuple[Checkpoint, dict]:
    remove_units(pass_of(checkpoint, method, [percent], places, calibration=looking_at(EXAMPLES)))
    return Checkpoint(places.base), json.loads(places.report.read_text())


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits


@torch.no_grad()
def watched_experts(model: nn.Module, renormalizes: bool) -> dict[str, np.ndarray]:
    """Compute the scores of all experts, (layers, experts), from the inputs of the blocks in stock transformers.

    The outputs of the experts come from their parameters, by the formula of the paper."""
    inputs = {layer.mlp: [] for layer in model.model.layers}
    for block in inputs:
        block.register_forward_pre_hook(lambda block, args: inputs[block].append(args[0][0]))
    for example in EXAMPLES:
        model(torch.tensor([example.ids]), use_cache=False)
    found = {"reap": [], "frequency": [], "ean": []}
    for block, of_examples in inputs.items():
        x = torch.cat(of_examples)  # (tokens, cols)
        probabilities = (x @ block.gate.weight.T).float().softmax(1)  # (tokens, experts)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(block.gate.top_k).indices, 1)
        weights = probabilities / (probabilities * chosen).sum(1, keepdim=True) if renormalizes else probabilities
        gate, up = torch.einsum("tc,erc->ter", x, block.experts.gate_up_proj).chunk(2, dim=2)
        outputs = torch.einsum("ter,ecr->tec", nn.functional.silu(gate) * up, block.experts.down_proj)
        norms = outputs.norm(dim=2) * chosen
        found["reap"].append((weights * norms).sum(0) / chosen.sum(0).clamp(min=1))
        found["frequency"].append(chosen.sum(0))
        found["ean"].append(norms.sum(0))
    return {name: torch.stack(rows).numpy() for name, rows in found.items()}


@pytest.mark.parametrize(
    ("name", "changes", "renormalizes"),
    [
        ("mixtral", {}, False),
        ("mixtral", {"num_experts_per_tok": 3}, False),
        ("qwen3_moe", {}, True),
        ("qwen3_moe", {"norm_topk_prob": False}, False),
    ],
)
def test_the_scores_of_experts_are_those_of_stock_transformers(name, changes, renormalizes, tmp_path):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / "model", torch.float32, changes))
    watched = watched_experts(loaded(checkpoint.folder), renormalizes)
    assert len(np.unique(watched["frequency"])) > 2
    for importance, expected in watched.items():
        np.testing.assert_allclose(scores_of(f"experts_{importance}", checkpoint), expected, rtol=2e-4)
    if renormalizes:
        plain = watched_experts(loaded(checkpoint.folder), renormalizes=False)["reap"]
        np.testing.assert_allclose(
            scores_of("experts_reap", checkpoint, Masks(renormalize_router_weights=False)), plain, rtol=2e-4
        )


@torch.no_grad()
def test_an_expert_that_gets_no_token_scores_zero_in_reap(tmp_path):
    folder = save_tiny("mixtral", tmp_path / "model", torch.float32, {"num_experts_per_tok": 1})
    model = loaded(folder)
    for layer in model.model.layers:
        # One of two opposite logits is positive, so a logit of 0 is never the largest.
        router = layer.mlp.gate.weight
        router[1], router[2:] = -router[0], 0
    model.save_pretrained(folder)
    scores = scores_of("experts_reap", Checkpoint(folder))
    assert not scores[:, 2:].any()
    assert (scores[:, :2] > 0).any()


@torch.no_grad()
def test_the_scores_of_decoder_layers_are_those_of_stock_transformers(tmp_path):
    """They are the mean distance of what enters and leaves it, and the perplexity of the model without it."""
    checkpoint = Checkpoint(save_tiny("gemma3", tmp_path / "model", torch.float32, LAYERED))
    model = loaded(checkpoint.folder)
    distances = [[] for _ in model.model.layers]
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _, inputs, outputs, number=number: distances[number].append(
                1 - nn.functional.cosine_similarity(inputs[0][0].double(), outputs[0].double())
            )
        )
    for example in EXAMPLES:
        model(torch.tensor([example.ids]), use_cache=False)
    influences = [float(torch.cat(own).mean()) for own in distances]
    np.testing.assert_allclose(scores_of("layers_block_influence", checkpoint), [influences], rtol=1e-4)
    perplexities = []
    for left_out in range(LAYERED["num_hidden_layers"]):
        model = without_layers(loaded(checkpoint.folder), [left_out])
        losses = []
        for example in EXAMPLES:
            ids = torch.tensor(example.ids)
            predicted = model(ids[None], use_cache=False).logits[0, :-1]
            of_tokens = nn.functional.cross_entropy(predicted, ids[1:], reduction="none")
            losses += of_tokens[example.answer_start - 1 :].tolist()
        perplexities.append(math.exp(sum(losses) / len(losses)))
    np.testing.assert_allclose(scores_of("layers_perplexity", checkpoint), [perplexities], rtol=1e-4)


def without_layers(model: nn.Module, removed: list[int]) -> nn.Module:
    """Return stock transformers' model without some of its decoder layers. Those left keep their windows."""
    kept = [number for number in range(len(model.model.layers)) if number not in removed]
    model.model.layers = nn.ModuleList([model.model.layers[number] for number in kept])
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in kept]
    model.config = model.model.config = config
    return model


def without_experts(model: nn.Module, removed: list[list[int]], top_k: int) -> nn.Module:
    for block, gone in zip([layer.mlp for layer in model.model.layers], removed, strict=True):
        kept = [number for number in range(len(block.experts.down_proj)) if number not in gone]
        for module, name in ((block.experts, "gate_up_proj"), (block.experts, "down_proj"), (block.gate, "weight")):
            setattr(module, name, nn.Parameter(getattr(module, name)[kept]))
        block.experts.num_experts = block.gate.num_experts = len(kept)
        block.gate.top_k = top_k
    return model


@pytest.mark.parametrize(
    ("name", "method", "percent", "number", "top_k"),
    [
        ("mixtral", "experts_reap", 43, 2, 2),
        ("mixtral", "experts_random", 64, 3, 1),
        ("qwen3_moe", "experts_ean", 33, 2, 2),
        ("qwen3_moe", "experts_frequency", 17, 1, 2),
    ],
)
def test_a_model_without_experts_is_its_parent_without_them(name, method, percent, number, top_k, tmp_path, places):
    parent = Checkpoint(save_tiny(name, tmp_path / "model", torch.float32, max_shard_size="40KB"))
    base, report = pruned(method, percent, parent, places)
    removed = [row["removed"] for row in report["units"]]
    assert [len(own) for own in removed] == [number, number]
    if "random" not in method:
        lowest = np.argsort(scores_of(method, parent), axis=1, kind="stable")[:, :number]
        assert removed == np.sort(lowest).tolist()
    assert base.config["num_experts_per_tok"] == top_k
    check_part(parent, base, places, removed, without_experts(loaded(parent.folder), removed, top_k))


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("name", "method", "layers", "types", "changes"),
    [
        ("gemma3", "layers_block_influence", 7, [SLIDING] * 3 + [FULL] + [SLIDING] * 3, {}),
        # config.json names no types, but a rule: every sixth decoder layer sees all tokens, or the first three do.
        ("gemma3", "layers_random", 8, [SLIDING] * 5 + [FULL] + [SLIDING] * 2, {}),
        ("qwen3", "layers_perplexity", 6, [FULL] * 3 + [SLIDING] * 3, {"max_window_layers": 3}),
        ("qwen3_moe", "layers_random", 4, None, {}),
        ("llama", "layers_random", 5, None, {}),
    ],
)
def test_a_model_without_decoder_layers_is_its_parent_without_them(
    name, method, layers, types, changes, tmp_path, places
):
    changes = changes | {"num_hidden_layers": layers} | ({"layer_types": types} if types else {})
    folder = save_tiny(name, tmp_path / "model", torch.float32, changes, max_shard_size="40KB")
    if types and types[3] == SLIDING:
        change_json(folder / "config.json", layer_types=None)
    parent = Checkpoint(folder)
    base, report = pruned(method, round(200 / layers), parent, places)
    (removed,) = [row["removed"] for row in report["units"]]
    assert len(removed) == 2
    assert base.config["num_hidden_layers"] == layers - 2
    windows = parent.architecture.windows(parent.config)
    assert base.architecture.windows(base.config) == [
        window for number, window in enumerate(windows) if number not in removed
    ]
    check_part(parent, base, places, [removed], without_layers(loaded(parent.folder), removed))


def check_part(
    parent: Checkpoint, base: Checkpoint, places: PassFiles, removed: list[list[int]], expected: nn.Module
) -> None:
    """Check the mask of the base, its records, and its logits, which are those of `expected`."""
    torch.testing.assert_close(logits(loaded(base.folder)), logits(expected), rtol=0, atol=2e-6)
    total, left = (sum(map(math.prod, prunable_shapes(model).values())) for model in (parent, base))
    mask, _ = read_checked_mask(places.masks[0], base)
    assert all(mask.kept(layer).all() for layer in prunable_shapes(base))
    manifest, report = (json.loads(file.read_text()) for file in (base.folder / "manifest.json", places.report))
    for record in (manifest, report, mask.meta):
        assert (record["removed_weights"], record["original"]) == (total - left, parent.digest)
    assert (manifest["removed"], manifest["original_weights"]) == (removed, total)
    proof = validate(base, mask, base=base)
    assert proof["passed"]
    reached = [mask.meta["reached"], report["sparsities"][0]["reached"]]
    assert [*reached, proof["expected_sparsity"], proof["actual_sparsity"]] == pytest.approx([1 - left / total] * 4)
    # transformers 5 would load experts of any numbers.
    check_tensors(base, base.folder)
    index = json.loads((base.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in base.tensors.values())


@pytest.mark.parametrize(
    ("name", "percent", "line"),
    [
        ("mixtral", 30, "no whole number of experts reaches 30 %; .*21.4 % .1 of 4. and 42.9 %"),
        # One expert must stay.
        ("mixtral", 86, "no whole number of experts reaches 86 %"),
        ("llama", 50, "LlamaForCausalLM has no experts"),
    ],
)
def test_a_sparsity_that_no_whole_number_of_units_reaches_is_refused(name, percent, line, tiny_models):
    with pytest.raises(InputError, match=line):
        EXPERTS.units.removed(described(Checkpoint(tiny_models[name])), [percent])


def test_equal_scores_are_cut_by_number_and_no_sparsity_removes_nothing(tmp_path, places):
    parent = Checkpoint(save_tiny("mixtral", tmp_path / "model", changes={"num_experts_per_tok": 4}))
    # Every token has every expert.
    _, report = pruned("experts_frequency", 43, parent, places)
    assert [row["removed"] for row in report["units"]] == [[0, 1], [0, 1]]
    assert LAYERS.units.removed(described(parent), [0, 50]) == {50: 1}
