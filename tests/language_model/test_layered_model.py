"""A model with one decoder layer in memory computes what the whole model computes."""

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.language_model.layered_model import LayeredModel, place_of_states
from sparseft.language_model.model import load_model
from sparseft.language_model.weights import unfuse_experts
from tiny_models import MODELS, save_tiny

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
    assert layered.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    for number in layered.layers([1, 0]):
        for path, parameter in layered.model.model.layers[number].named_parameters():
            assert torch.equal(parameter, whole[f"model.layers.{number}.{path}"])
            assert parameter.dtype == layered.dtype
        held = {path for path, parameter in layered.model.named_parameters() if not parameter.is_meta}
        prefix, shapes = f"model.layers.{number}.", prunable_shapes(checkpoint)
        assert {path for path in held if ".layers." in path} == {path for path in whole if path.startswith(prefix)}
        linears = layered.linears(number, shapes)
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
