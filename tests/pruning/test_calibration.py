"""Scores beside autograd's gradients, norms beside captured activations, sequential wanda beside whole forwards."""

import weakref
from collections import ChainMap
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from sparseft.axes.importances import IMPORTANCES
from sparseft.axes.importances.fisher import FISHER
from sparseft.axes.importances.gradient import GRADIENT_MAGNITUDES
from sparseft.axes.importances.stade import STADE
from sparseft.axes.importances.wanda import INPUT_NORMS
from sparseft.axes.tasks import BY_NAME, text
from sparseft.common.errors import InputError
from sparseft.data.settings import CalibrationText
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import decoder_layer_of, prunable_layers
from sparseft.models.language_model.batches import Example, collate, encode
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.weights import memory_path
from sparseft.pruning.calibration import MULTIPLE
from sparseft.pruning.calibration_examples import calibration_examples, choose_windows, text_examples
from tiny_models import MODELS, SIZES, edited, save_tiny, stock
from torch import Tensor
from transformers import AutoTokenizer

from masks import inputs_of, looking_at

EXAMPLES = [  # 6, 3, 110 and twice 70 tokens: three are longer than the windows of 64
    Example([5, 6, 7, 8, 9, 10], 4),
    Example([20, 21, 22], 1),
    Example(list(range(30, 140)), 100),
    Example([number * 7 % 250 for number in range(70)], 69),
    Example([number * 11 % 250 for number in range(70)], 40),
]
TASK = BY_NAME["hellaswag_mini"]
CALIBRATION = looking_at(EXAMPLES)


@pytest.mark.long
@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in MODELS), ("llama", torch.bfloat16)])
@pytest.mark.parametrize(
    ("statistic", "of", "divisor"),
    [
        (GRADIENT_MAGNITUDES, Tensor.abs, len(EXAMPLES)),
        (FISHER.statistic, lambda gradient: gradient.float().square(), 1),
    ],
    ids=["gradient", "fisher"],
)
def test_the_bits_are_those_of_a_whole_backward(tmp_path, name, dtype, statistic, of, divisor):
    changes = {"num_hidden_layers": 4} if dtype == torch.bfloat16 else {}
    checkpoint = Checkpoint(save_tiny(name, tmp_path / name, dtype, changes))
    parts = list(CALIBRATION.compute_gradients(checkpoint, statistic))
    layers = prunable_layers(checkpoint)
    by_decoder_layer = [list(own) for _, own in groupby(layers, decoder_layer_of)]
    assert [list(part) for part in parts] == by_decoder_layer[::-1]
    model = stock(checkpoint.folder).requires_grad_(False)
    weights = {layer: model.get_submodule(memory_path(checkpoint.architecture, layer)).weight for layer in layers}
    totals = {layer: torch.zeros(weight.shape) for layer, weight in weights.items()}
    for example in sorted(EXAMPLES, key=lambda example: -len(example.ids)):
        for weight in weights.values():
            weight.requires_grad_(True).grad = None
        AnswerLoss(model)(collate([example], MULTIPLE)).mean().backward()
        for layer, weight in weights.items():
            totals[layer] += 0 if weight.grad is None else of(weight.grad)
    for layer, found in dict(ChainMap(*parts)).items():
        assert found.dtype == np.float32
        assert np.array_equal(found, (totals[layer] / divisor).numpy()), layer


def test_the_totals_of_two_decoder_layers_are_never_in_memory_at_once(tmp_path):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "llama", torch.float32))
    totals: list[weakref.ref] = []

    def shape(*sizes: int) -> tuple[int, ...]:
        assert all(total() is None for total in totals)
        return sizes

    def add(total: Tensor, gradient: Tensor) -> None:
        totals.append(weakref.ref(total))
        GRADIENT_MAGNITUDES.add(total, gradient)

    parts = CALIBRATION.compute_gradients(checkpoint, replace(GRADIENT_MAGNITUDES, shape=shape, add=add))
    assert sum(1 for _ in parts) * 7 * len(EXAMPLES) == len(totals)


@pytest.mark.parametrize(
    ("statistic", "of"),
    [(INPUT_NORMS, lambda x: x.norm(dim=0)), (STADE.statistic, lambda x: x.std(dim=0, unbiased=False))],
    ids=["norms", "stade"],
)
def test_a_statistic_of_inputs_is_that_of_the_captured_inputs(tiny, statistic, of):
    values = CALIBRATION.compute(tiny, statistic)
    inputs = inputs_of(stock(tiny.folder), prunable_layers(tiny), EXAMPLES)
    assert list(values) == prunable_layers(tiny)
    for layer, found in values.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, of(inputs[layer]).numpy(), rtol=1e-5, err_msg=layer)


def halve(weight: Tensor, norms: Tensor) -> None:
    """Set half of every row to 0 by |w| ||x||."""
    order = (weight.float().abs() * norms).sort(dim=1, stable=True).indices
    weight.scatter_(1, order[:, : weight.shape[1] // 2], 0)


def test_sequential_wanda_equals_whole_forwards_of_the_model_pruned_so_far(tiny):
    norms, expected = {}, {}
    for weights, norms_of in CALIBRATION.in_sequence(tiny, INPUT_NORMS):
        for layer, weight in weights.items():
            norms[layer] = norms_of(layer)
            halve(weight, norms[layer])
    model = stock(tiny.folder)
    for number in range(SIZES["num_hidden_layers"]):
        own = [layer for layer in prunable_layers(tiny) if layer.startswith(f"model.layers.{number}.")]
        for layer, x in inputs_of(model, own, EXAMPLES).items():
            expected[layer] = x.norm(dim=0).float()
            halve(model.get_submodule(memory_path(tiny.architecture, layer)).weight.data, expected[layer])
    assert list(norms) == prunable_layers(tiny)
    for layer, norm in norms.items():
        np.testing.assert_allclose(norm, expected[layer], rtol=1e-5, err_msg=layer)
    dense = CALIBRATION.compute(tiny, INPUT_NORMS)
    changed = [layer for layer in norms if not np.allclose(norms[layer], dense[layer], rtol=1e-3)]
    assert changed == [layer for layer in norms if layer.startswith("model.layers.1.")]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_an_expert_that_no_token_reaches_scores_zero(tiny_models, name):
    checkpoint, calibration = Checkpoint(tiny_models[name]), looking_at([Example([5, 6], 1)])
    idle = {layer for layer, norm in calibration.compute(checkpoint, INPUT_NORMS).items() if not norm.any()}
    assert 0 < len(idle) < 24  # of 2 x 4 experts x 3
    assert all("experts" in layer for layer in idle)
    for statistic in {importance.statistic for importance in IMPORTANCES if importance.score}:
        values = calibration.compute(checkpoint, statistic)
        assert not any(values[layer].any() for layer in idle)


SENTENCES = [{"text": "The river rises in the hills behind the village."}, {"text": "In spring it carries much water."}]


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        (TASK, TASK.generate("train", 40, 0), "hellaswag_mini has only 40 training rows"),
        # Of a text, sequences are drawn and not documents.
        (text.task_of("wiki", {"kind": "text", "length": 8}), SENTENCES, "training sequences"),
    ],
)
def test_examples_are_drawn_by_the_seed(tiny_llama, task, rows, words):
    everything = encode(rows, task, AutoTokenizer.from_pretrained(tiny_llama.folder), 512)
    draw, again, other = (calibration_examples(tiny_llama, task, rows, 6, seed) for seed in (0, 0, 1))
    assert draw == again != other
    assert len({everything.index(example) for example in draw}) == 6
    assert len(calibration_examples(tiny_llama, task, rows, len(everything), 0)) == len(everything)
    with pytest.raises(InputError, match=f"calibration_examples {len(everything) + 1}: .*{words}"):
        calibration_examples(tiny_llama, task, rows, len(everything) + 1, 0)


def test_what_is_not_finite_is_refused_with_its_layer(tmp_path):
    with edited(save_tiny("llama", tmp_path / "m")) as tensors:
        tensors["model.layers.1.input_layernorm.weight"][:] = float("nan")
    checkpoint = Checkpoint(tmp_path / "m")
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.down_proj: .*gradient .*finite"):
        looking_at(EXAMPLES[:1]).compute(checkpoint, GRADIENT_MAGNITUDES)
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.down_proj: .*input .*finite"):
        for weights, norms_of in CALIBRATION.in_sequence(checkpoint, INPUT_NORMS):
            for layer in weights:
                norms_of(layer)


PLACE = Path("text.jsonl")


def settings(**values: object) -> CalibrationText:
    return CalibrationText(**{"text": "text.jsonl", "examples": 4, "length": 10, "seed": 0, **values})


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


# Consecutive characters, so that a window shows where it starts.
DOCUMENTS = [
    "".join(map(chr, range(1000 * number, 1000 * number + length)))
    for number, length in enumerate((11, 9, 40, 10, 200, 11, 30), 1)
]


def test_long_documents_give_one_random_window_each():
    windows = choose_windows(DOCUMENTS, letters, settings(), PLACE)
    assert len({window[0] // 1000 for window in windows}) == 4
    for window in windows:
        home = DOCUMENTS[window[0] // 1000 - 1]
        assert len(home) > 10
        assert "".join(map(chr, window)) in home
        assert len(window) == 10
    drawn = [choose_windows(DOCUMENTS, letters, settings(seed=seed), PLACE) for seed in range(200)]
    starts = {window[0] for windows in drawn for window in windows}
    assert {1000, 1001, 3000, 3030, 6000, 6001} <= starts  # the first and the last place of a document
    assert not starts & {2000, 4000}  # documents that are not longer than a window


@pytest.mark.parametrize(
    ("seed", "starts"),
    [(0, [7012, 7013, 1000, 5124, 7009, 3018, 5035, 3004]), (3, [5139, 3029, 5121, 6000, 5003, 7015, 3017, 6000])],
)
def test_windows_are_those_of_wanda_s_get_c4(seed, starts):
    # `starts` was printed by get_c4 of locuslab/wanda@0628038, lib/data.py, on these documents.
    asked = settings(seed=seed, choice="get_c4", examples=8)
    windows = choose_windows(DOCUMENTS, letters, asked, PLACE)
    assert [window[0] for window in windows] == starts
    assert all(window == list(range(window[0], window[0] + 10)) for window in windows)
    # It joins no documents.
    with pytest.raises(InputError, match="too short for 8 windows"):
        choose_windows(["a" * 10] * 100, letters, asked, PLACE)


def test_short_documents_are_joined_by_blank_lines():
    documents = ["abc", "", "defghij", "k" * 30]
    windows = choose_windows(documents, letters, settings(), PLACE)
    whole = "abc\n\n\n\ndefghij\n\n" + "k" * 30
    assert all("".join(map(chr, window)) in whole for window in windows)
    firsts = (choose_windows(documents, letters, settings(seed=seed), PLACE)[0] for seed in range(200))
    assert {whole[:10], whole[4:14], whole[-10:]} <= {"".join(map(chr, window)) for window in firsts}
    with pytest.raises(InputError, match="^text.jsonl: its documents are too short for 4 windows of 10 tokens; give"):
        choose_windows(["a" * 10, "b" * 27], letters, settings(), PLACE)


def test_a_window_is_an_example_whose_loss_leaves_out_the_first_token(tiny_llama):
    documents = ["The cat sat on the mat. " * 20] * 6 + ["a" * 10_000]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.folder)
    examples = text_examples(tiny_llama, documents, settings(length=512), PLACE)
    windows = choose_windows(documents, tokenizer.encode, settings(length=512), PLACE)
    assert examples == [Example(ids, 1) for ids in windows]
