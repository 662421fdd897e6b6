"""The memory of jobs: beside what autograd keeps, and by the parts that follow from the shapes alone."""

import pytest
import torch
from project import laid_over
from sparseft.backends.torch import adapted_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.lora.masked_lora import LoRALinear
from sparseft.planning.memory import NEEDS, PROGRAM, JobKind
from sparseft.planning.sizes import described
from sparseft.study.schedule import Training
from sparseft.study.sources import Model
from tiny_models import MODELS

from masks import compute_masks

# SmolLM2's weights: a decoder layer's attention, MLP and norms, and outside of them the embedding and a norm.
DECODER_LAYER = 2 * 576 * (576 + 192) + 3 * 576 * 1536 + 2 * 576
OUTER = 49152 * 576 + 576
WIDEST = 576 * 1536


def need(kind: str, method: str = "", **sections: object) -> tuple[int, int]:
    """Return the bytes of a job with SmolLM2 on the device that computes, and in the machine."""
    config = laid_over({"tasks": {"boolq": {"train_examples": 200}}, "grid": {"tasks": ["boolq"]}, **sections})
    job = JobKind(kind, "smollm2", "boolq", method)
    found = NEEDS[kind](config, job, described("smollm2", config.models["smollm2"]))
    return sum(found.model.values()), sum(found.machine.values())


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_activations_are_what_autograd_keeps(tiny_models, name, mode):
    checkpoint = Checkpoint(tiny_models[name])
    mask = compute_masks(checkpoint, "unstructured", [50])[50]
    model, _, layers = adapted_model(checkpoint, mask, mode, Training(lora_r=1), torch.device("cpu"))
    ids = torch.randint(0, 250, (2, 60))  # 60: within Mistral's window
    a_layer = described(name, Model(source=f"path:{checkpoint.folder}")).activation_bytes * ids.numel()
    assert bytes_kept_for_backward(model, layers, ids) == pytest.approx(2 * a_layer, rel=0.2)


def bytes_kept_for_backward(model: torch.nn.Module, layers: dict[str, LoRALinear], ids: torch.Tensor) -> int:
    """Return the bytes of every storage that the decoder's forward saves, but the model's own."""
    own = [*model.parameters(), *model.buffers(), *(layer.weight for layer in layers.values())]
    known, found = {tensor.untyped_storage().data_ptr() for tensor in own}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in known)


def test_masks_need_a_decoder_layer_and_the_hidden_states_of_examples_of_mean_length():
    # fp32; 128 examples of 140 tokens in the mean, each with 576 numbers of state, and cosine and sine of 64 each.
    states = 128 * 140 * (576 + 2 * 64)
    norms = 8 * (6 * 576 + 1536)  # 8 bytes per column of the inputs of a decoder layer
    device = 4 * (OUTER + DECODER_LAYER + states) + norms
    assert need("mask", method="unstructured_wanda") == (device, PROGRAM + 3 * 4 * WIDEST)
    at_once = need("mask", method="unstructured_wanda", masks={"sequential": False})
    assert at_once == (device, PROGRAM + 30 * norms)
    # The Hessians of six layers of 576 columns and one of 1536, 4 bytes each, their factors and the layer's weights.
    hessians = 4 * (6 * 576**2 + 1536**2) + 4 * (3 * 1536**2 + 6 * WIDEST)
    assert need("mask", method="unstructured_sparsegpt")[0] == device - norms + hessians
    scores = 4 * 30 * (2 * 576**2 + 2 * 192 * 576 + 3 * WIDEST)
    assert need("mask", method="unstructured_fisher")[1] == PROGRAM + scores


@pytest.mark.parametrize("processes", [2, 4])
def test_a_divided_model_has_a_decoder_layer_once_and_the_embedding_twice_beside_its_part(processes):
    whole, divided = (
        need("training", training={"batch_size": 32, "micro_batch_size": 4, "shard_model": shard},
             resources={"processes": processes})[0] for shard in (False, True)
    )  # fmt: skip
    weights = OUTER + 30 * DECODER_LAYER
    assert whole - divided == 4 * (weights - weights // processes - DECODER_LAYER - 2 * OUTER)


def test_checkpointing_and_cached_weights_change_the_memory_of_a_training_by_what_they_keep():
    plain, less, more = (
        need("training", training={"batch_size": 64, "micro_batch_size": 32, **settings})[0]
        for settings in ({}, {"gradient_checkpointing": True}, {"cache_weights": True})
    )
    prunable = 30 * (DECODER_LAYER - 2 * 576)
    assert less < plain
    assert more - plain == 4 * (prunable - WIDEST)


def test_on_a_gpu_the_weights_are_in_the_machine_s_memory_too_until_they_are_moved():
    weights = 4 * (OUTER + 30 * DECODER_LAYER)
    for kind in ("training", "evaluation"):
        on_cpu, on_gpu = need(kind), need(kind, resources={"gpus": 1})
        assert (on_cpu[0], on_cpu[1]) == (on_gpu[0], PROGRAM)
        assert on_gpu[1] == PROGRAM + weights
