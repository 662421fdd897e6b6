"""A model with one decoder layer in memory, or whose weights partly stay in their files, is the whole model."""

import pytest
import torch
from sparseft.axes.tasks import BY_NAME
from sparseft.evaluation.evaluate import evaluate, token_perplexity
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.language_model.layered_model import LayeredModel, place_of_states
from sparseft.models.language_model.model import empty_model, load_model
from sparseft.models.language_model.placement import DISK, StoredWeights, device_map, place, placement
from sparseft.models.language_model.weights import unfuse_experts
from tiny_models import MODELS, change_json, save_tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_each_decoder_layer_has_the_weights_of_the_whole_model_and_only_while_it_is_used(name, dtype, tmp_path):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / "model", dtype))
    layered = LayeredModel(checkpoint, CPU, widens_float16=True)
    model, _ = load_model(checkpoint.folder, CPU)
    if dtype == torch.float16:
        model.float()
    unfuse_experts(model)
    whole = dict(model.named_parameters())
    assert layered.model.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    for number in layered.layers([1, 0]):
        for path, parameter in layered.model.model.layers[number].named_parameters():
            assert torch.equal(parameter, whole[f"model.layers.{number}.{path}"])
            assert parameter.dtype == layered.model.dtype
        held = {path for path, parameter in layered.model.named_parameters() if not parameter.is_meta}
        prefix, shapes = f"model.layers.{number}.", prunable_shapes(checkpoint)
        assert {path for path in held if ".layers." in path} == {path for path in whole if path.startswith(prefix)}
        linears = layered.linears(number)
        assert linears.keys() == {layer for layer in shapes if layer.startswith(prefix)}
        assert all(linear.weight.shape == shapes[layer] for layer, linear in linears.items())
    layered.read_head()
    for path, parameter in layered.model.named_parameters():
        assert parameter.is_meta if ".layers." in path else torch.equal(parameter, whole[path])
    buffers = dict(model.named_buffers())
    for path, buffer in layered.model.named_buffers():
        assert torch.equal(buffer, buffers[path]), path


@pytest.mark.parametrize(("device", "free", "jobs", "kind"), [
    ("cuda", 800, 1, "cuda"), ("cuda", 799, 1, "cpu"), ("cpu", 800, 1, "cpu"),
    ("cuda", 900, 2, "cuda"), ("cuda", 900, 3, "cpu"),
])  # fmt: skip
def test_states_are_on_a_gpu_if_they_take_at_most_an_eighth_of_what_its_job_can_use(
    monkeypatch, device, free, jobs, kind
):
    # Two jobs with a CUDA context each.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * (800 + 600_000_000)))
    monkeypatch.setenv("SPARSEFT_JOBS_PER_GPU", str(jobs))
    assert place_of_states(torch.device(device), 100).type == kind


def results(model, tokenizer) -> list:
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
