"""Scores beside autograd's gradients, norms beside captured activations, sequential wanda beside whole forwards."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparseft.architectures import find_architecture
from sparseft.architectures.architecture import Architecture
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.importances import IMPORTANCES, WANDA
from sparseft.importances.fisher import FISHER
from sparseft.importances.gradient import GRADIENT_MAGNITUDES
from sparseft.importances.stade import STADE
from sparseft.importances.wanda import INPUT_NORMS
from sparseft.language_model.batches import Example, encode
from sparseft.language_model.weights import memory_path, unfuse_experts
from sparseft.pruning.calibration import ExampleCalibration, calibration_examples, compute_statistic
from sparseft.tasks import BY_NAME, text
from tiny_models import MODELS, PRUNABLE_LAYERS, SIZES, save_tiny
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = [  # 6, 3, 110 and twice 70 tokens: three are longer than the windows of 64
    Example([5, 6, 7, 8, 9, 10], 4),
    Example([20, 21, 22], 1),
    Example(list(range(30, 140)), 100),
    Example([number * 7 % 250 for number in range(70)], 69),
    Example([number * 11 % 250 for number in range(70)], 40),
]
TASK = BY_NAME["hellaswag_mini"]
BY_WANDA = ExampleCalibration(WANDA, lambda checkpoint: EXAMPLES, {})


def fused(values: dict[str, Tensor], layer: str, architecture: Architecture) -> Tensor:
    """A layer's part of what stock transformers holds by parameter, experts fused."""
    if "experts" not in layer:
        return values[f"{layer}.weight"]
    block, expert, matrix = memory_path(architecture, layer).rsplit(".", 2)
    names = architecture.experts
    if matrix == names.down:
        return values[f"{block}.down_proj"][int(expert)]
    gate, up = values[f"{block}.gate_up_proj"][int(expert)].chunk(2)
    return {names.gate: gate, names.up: up}[matrix]


def sums(model: nn.Module, layers: list[str], of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The sum over the examples of a function of whole gradients of transformers' own loss, one example at a time."""
    weights, total = dict(model.named_parameters()), dict.fromkeys(layers, 0)
    architecture = find_architecture(model.config.architectures, "the model")
    for example in EXAMPLES:
        ids = torch.tensor([example.ids])
        labels = ids.where(torch.arange(ids.shape[1]) >= example.answer_start, -100)
        gradients = torch.autograd.grad(model(ids, labels=labels).loss, list(weights.values()))
        by_name = dict(zip(weights, gradients, strict=True))
        for layer in layers:
            total[layer] += of(fused(by_name, layer, architecture))
    return total


@pytest.mark.parametrize(
    ("statistic", "of"),
    [
        (GRADIENT_MAGNITUDES, lambda gradient: gradient.abs() / len(EXAMPLES)),
        (FISHER.statistic, lambda gradient: gradient.square()),
    ],
    ids=["gradient", "fisher"],
)
@pytest.mark.parametrize("name", MODELS)
def test_a_statistic_of_gradients_is_that_of_the_full_gradients_of_each_example(tmp_path, name, statistic, of):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / name, torch.float32))
    evidence = compute_statistic(checkpoint, EXAMPLES, statistic)
    expected = sums(AutoModelForCausalLM.from_pretrained(checkpoint.folder), list(evidence), of)
    assert len(evidence) == PRUNABLE_LAYERS[name]
    for layer, found in evidence.items():
        assert found.dtype == np.float32
        assert found.max() > 1e-5  # and so not all within atol
        np.testing.assert_allclose(found, expected[layer].numpy(), rtol=2e-4, atol=1e-7, err_msg=layer)


def test_no_gradient_outlives_its_hook(tiny):
    found, held = {}, []  # what requires a gradient; how many have one after each hook

    def follow(module: nn.Module, _) -> None:
        for weight in module.parameters(recurse=False):
            if weight.requires_grad and id(weight) not in found:
                found[id(weight)] = weight
                weight.register_post_accumulate_grad_hook(  # after the one that folds
                    lambda _: held.append(sum(weight.grad is not None for weight in found.values()))
                )

    handle = register_module_forward_pre_hook(follow)
    try:
        compute_statistic(tiny, EXAMPLES, GRADIENT_MAGNITUDES)
    finally:
        handle.remove()
    assert len(found) == len(prunable_layers(tiny))
    assert len(held) >= len(EXAMPLES) * len(found) / 2  # not every expert sees every example
    assert set(held) == {0}


def load(checkpoint: Checkpoint) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype="auto").eval()
    unfuse_experts(model)
    return model


@torch.no_grad()
def captured(model: nn.Module, layers: list[str], examples: list[Example]) -> dict[str, Tensor]:
    """Everything that whole forward passes send through `layers`, float64 (tokens, cols)."""
    inputs = {layer: [] for layer in layers}
    architecture = find_architecture(model.config.architectures, "the model")
    handles = [
        model.get_submodule(memory_path(architecture, layer)).register_forward_hook(
            lambda _, args, __, layer=layer: inputs[layer].append(args[0].reshape(-1, args[0].shape[-1]))
        )
        for layer in layers
    ]
    for example in examples:
        model(torch.tensor([example.ids]))
    for handle in handles:
        handle.remove()
    return {layer: torch.cat(found).double() for layer, found in inputs.items()}


def captured_norms(model: nn.Module, layers: list[str], examples: list[Example]) -> dict[str, np.ndarray]:
    """||X_j|| of everything that whole forward passes send through `layers`."""
    return {layer: x.norm(dim=0).float().numpy() for layer, x in captured(model, layers, examples).items()}


@pytest.mark.parametrize(
    ("statistic", "of"),
    [(INPUT_NORMS, lambda x: x.norm(dim=0)), (STADE.statistic, lambda x: x.std(dim=0, unbiased=False))],
    ids=["norms", "stade"],
)
def test_a_statistic_of_inputs_is_that_of_the_captured_inputs(tiny, statistic, of):
    evidence = compute_statistic(tiny, EXAMPLES, statistic)
    inputs = captured(load(tiny), prunable_layers(tiny), EXAMPLES)
    assert list(evidence) == prunable_layers(tiny)
    for layer, found in evidence.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, of(inputs[layer]).numpy(), rtol=1e-5, err_msg=layer)


def wanda(weights: dict[str, Tensor], seen: dict[str, np.ndarray]) -> Callable[[str, np.ndarray], np.ndarray]:
    """Prune half of every row by |w| ||x||; keeps the norms in `seen`."""

    def prune(layer: str, norms: np.ndarray) -> np.ndarray:
        seen[layer] = norms
        score = weights[f"{layer}.weight"].float().abs() * torch.from_numpy(norms)
        order = score.sort(dim=1, stable=True).indices
        return torch.ones_like(score, dtype=torch.bool).scatter(1, order[:, : score.shape[1] // 2], False).numpy()

    return prune


def test_sequential_wanda_equals_whole_forwards_of_the_model_pruned_so_far(tiny):
    weights = load_file(tiny.folder / "model.safetensors")
    norms, expected = {}, {}
    BY_WANDA.prune_in_sequence(tiny, wanda(weights, norms))
    model, prune = load(tiny), wanda(weights, expected)
    for number in range(SIZES["num_hidden_layers"]):
        own = [layer for layer in prunable_layers(tiny) if layer.startswith(f"model.layers.{number}.")]
        for layer, norm in captured_norms(model, own, EXAMPLES).items():
            model.get_submodule(memory_path(tiny.architecture, layer)).weight.data *= torch.from_numpy(
                prune(layer, norm)
            )
    assert list(norms) == prunable_layers(tiny)
    for layer, norm in norms.items():
        np.testing.assert_allclose(norm, expected[layer], rtol=1e-5, err_msg=layer)
    dense = compute_statistic(tiny, EXAMPLES, INPUT_NORMS)
    changed = [layer for layer in norms if not np.allclose(norms[layer], dense[layer], rtol=1e-3)]
    assert changed == [layer for layer in norms if layer.startswith("model.layers.1.")]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_an_expert_that_no_token_reaches_scores_zero(tiny_models, name):
    checkpoint, pair = Checkpoint(tiny_models[name]), [Example([5, 6], 1)]
    idle = {layer for layer, norm in compute_statistic(checkpoint, pair, INPUT_NORMS).items() if not norm.any()}
    assert 0 < len(idle) < 24  # of 2 x 4 experts x 3
    assert all("experts" in layer for layer in idle)
    for statistic in {importance.statistic for importance in IMPORTANCES if importance.score}:
        evidence = compute_statistic(checkpoint, pair, statistic)
        assert not any(evidence[layer].any() for layer in idle)


def test_examples_are_drawn_by_the_seed(tiny_llama):
    rows = TASK.generate("train", 40, 0)
    draw, again, other = (calibration_examples(tiny_llama, TASK, rows, 8, seed) for seed in (0, 0, 1))
    assert draw == again != other
    everything = encode(rows, TASK, AutoTokenizer.from_pretrained(tiny_llama.folder), 512)
    assert len({everything.index(example) for example in draw}) == 8
    assert len(calibration_examples(tiny_llama, TASK, rows, 40, 0)) == 40


def test_of_a_text_sequences_are_drawn_and_not_documents(tiny_llama):
    task = text.task_of("wiki", {"kind": "text", "length": 8})
    rows = [{"text": "The river rises in the hills behind the village."}, {"text": "In spring it carries much water."}]
    sequences = encode(rows, task, AutoTokenizer.from_pretrained(tiny_llama.folder), 512)
    draw, again, other = (calibration_examples(tiny_llama, task, rows, 6, seed) for seed in (0, 0, 1))
    assert draw == again != other
    assert len({sequences.index(example) for example in draw}) == 6
    fault = f"calibration_examples {len(sequences) + 1}: wiki has only {len(sequences)} training sequences"
    with pytest.raises(InputError, match=fault):
        calibration_examples(tiny_llama, task, rows, len(sequences) + 1, 0)


@pytest.mark.parametrize(
    ("rows", "number", "message"),
    [(0, 8, "hellaswag_mini: no calibration examples"), (8, 9, "calibration_examples 9: hellaswag_mini .* 8 ")],
)
def test_too_few_rows_are_refused(tiny_llama, rows, number, message):
    with pytest.raises(InputError, match=message):
        calibration_examples(tiny_llama, TASK, TASK.generate("train", 8, 0)[:rows], number, 0)


def test_what_is_not_finite_is_refused_with_its_layer(tmp_path):
    file = save_tiny("llama", tmp_path / "m") / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.input_layernorm.weight"][:] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    checkpoint = Checkpoint(tmp_path / "m")
    with pytest.raises(InputError, match=r"^model\.layers\.0\.mlp\.down_proj: .*gradient .*finite"):
        compute_statistic(checkpoint, EXAMPLES[:1], GRADIENT_MAGNITUDES)
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.down_proj: .*input .*finite"):
        BY_WANDA.prune_in_sequence(checkpoint, wanda(tensors, {}))
