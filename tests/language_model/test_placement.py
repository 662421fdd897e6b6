"""A model whose weights partly stay in their files gives the same bits as the whole model."""

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.evaluation.evaluate import evaluate, token_perplexity
from sparseft.language_model.model import empty_model, load_model
from sparseft.language_model.placement import DISK, StoredWeights, device_map, place, placement
from sparseft.tasks import BY_NAME
from tiny_models import change_json, save_tiny

CPU = torch.device("cpu")


def results(model, tokenizer) -> list:
    """Return all that a model gives to tasks of each kind, and the perplexity of a text."""
    records = []
    for name in ("hellaswag_mini", "gsm8k_mini"):
        task = BY_NAME[name]
        rows = {split: task.generate(split, 6, 0) for split in ("train", "validation")}
        records.append(evaluate(model, tokenizer, task, rows, batch_size=4) | {"placement": None})
    return [*records, token_perplexity(model, tokenizer, "A text of some words. " * 20, 64)]


@pytest.mark.long
@pytest.mark.parametrize(("name", "dtype"), [("llama", torch.float32), ("mixtral", torch.bfloat16)])
def test_an_evaluation_of_a_model_in_its_files_has_the_bits_of_the_whole_model(tmp_path, name, dtype):
    folder = save_tiny(name, tmp_path, dtype, {"num_hidden_layers": 4}, max_shard_size="40KB")
    change_json(folder / "generation_config.json", repetition_penalty=3.0)
    checkpoint, (whole, tokenizer) = Checkpoint(folder), load_model(folder, CPU)
    expected = results(whole, tokenizer)
    size, layer = (sum(part.nbytes for part in module.parameters()) for module in (whole, whole.model.layers[0]))
    for room, layers in {0: {DISK: 4}, size - layer: {"cpu": 1, DISK: 3}}.items():
        model = empty_model(checkpoint)
        place(model, StoredWeights(checkpoint, model), {"cpu": room})
        assert placement(model) == layers
        assert model.device == CPU
        assert results(model, tokenizer) == expected


def test_a_model_takes_room_only_where_its_weights_are_copied(tmp_path):
    small = {"cpu": 1.0}
    for name, layers in (("llama", {"cpu": 2}), ("mixtral", {DISK: 2})):
        model, _ = load_model(save_tiny(name, tmp_path / name), CPU, small)
        assert placement(model) == layers


@pytest.mark.parametrize(
    ("rooms", "places"),
    [
        ({"a": 45}, "a a a a"),
        ({"a": 44}, "a disk disk disk"),
        ({"a": 0}, "disk disk disk disk"),
        ({"a": 16, "b": 30}, "a b b b"),
        ({"a": 35, "b": 4}, "a disk disk disk"),
        ({"a": 25, "b": 10}, "b disk disk disk"),
    ],
)
def test_layers_fill_the_devices_in_order_and_the_first_keeps_room_for_two_that_are_on_none(rooms, places):
    assert device_map([10] * 4, 5, rooms) == places.split()
