"""What jobs need and request: beside what autograd keeps, and by the model's size, the attempt and the settings."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from project import DEFAULT, ROOT, laid_over
from sparseft.architectures import ARCHITECTURES
from sparseft.architectures.decoder import HEAD_NORMS
from sparseft.architectures.gemma3 import GEMMA3
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.language_model.model import load_model
from sparseft.lora.adapted_model import adapted_model
from sparseft.lora.masked_lora import LoRALinear
from sparseft.planning.requests import (
    CUDA,
    CUDA_LIBRARIES,
    KIND_OF,
    LOADED,
    LOGITS,
    LOGITS_ON_GPU,
    PROGRAM,
    RUN_THE_MODEL,
    UNKNOWN,
    JobKind,
    Requests,
    process_memory,
)
from sparseft.planning.sizes import described
from sparseft.study.config import Config
from sparseft.study.schedule import Training
from sparseft.study.section import parse_section
from sparseft.study.sources import Model
from test_counted_memory import Peak
from tiny_models import GEMMA, MODELS, save_tiny
from tiny_models import described as tiny_model

from masks import compute_masks

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def study(base: dict = SWEEP, **sections: object) -> Config:
    return parse_section(Config, {**DEFAULT, **base, **sections}, "configuration")


def request(kind: str, attempt: int = 1, method: str = "", model: str = "llama", **sections: object) -> tuple[int, int]:
    """Return MB and minutes that a job on BoolQ requests."""
    text = "self" if kind == "sampling" else ""
    return Requests(study(**sections)).of(JobKind(kind, model, "boolq", method, text=text), attempt)


def test_engines_request_what_the_model_needs_from_which_theirs_was_pruned():
    half = {"half": {"source": "pruned:llama/sparsity50_layers_random"}}
    of_half, of_whole = (request("engines", model=name, models=SWEEP["models"] | half) for name in ("half", "llama"))
    assert of_half == of_whole
    assert request("evaluation", model="half", models=SWEEP["models"] | half) < of_whole


@pytest.mark.parametrize("kind", ["prepare", "weights", "files", *RUN_THE_MODEL])
def test_memory_and_time_grow_with_the_model_and_the_attempt(kind):
    method = "unstructured_taylor" if kind == "mask" else ""
    llama, mixtral = (request(kind, model=name, method=method) for name in ("llama", "mixtral"))
    assert llama[0] <= mixtral[0]
    assert llama[1] < mixtral[1]
    assert request(kind, 3, method) == (3 * llama[0], 3 * llama[1])


def test_a_training_requests_its_weights_where_they_are():
    weights = described("llama", study().models["llama"]).bytes / 1e6
    on_gpu, on_cpu = request("training")[0], request("training", resources={"threads": 8})[0]
    offloaded = request("training", training={**SWEEP["training"], "shard_model": True})[0]
    assert on_gpu < weights
    # On a CPU there are the activations, too.
    assert 2 * weights < on_cpu
    # In pinned memory, a matrix of the MLP takes 134 MB instead of 90.
    pinned = weights + 32 * 3 * (2**27 - 2 * 4096 * 11008) / 1e6
    assert offloaded - on_gpu == pytest.approx(1.3 * pinned, rel=1e-2)
    four = request("training", resources={"threads": 8, "gpus": 4, "processes": 4})[0]
    assert four - 400 == pytest.approx(4 * (on_gpu - 400), rel=1e-3)


def test_the_processes_of_a_divided_training_on_gpus_need_no_copy_of_the_model_in_the_machine():
    settings = {**SWEEP["training"], "micro_batch_size": 4, "shard_model": True}
    divided = request("training", training=settings, resources={"gpus": 4, "processes": 4})[0]
    # 400 MB for Snakemake's processes, and 30 % more than the estimate: the programs, and some tensors on their way to the GPU.
    assert divided == pytest.approx(400 + 1.3 * 4 * (PROGRAM + CUDA_LIBRARIES + LOADED * 32000 * 4096 * 2) / 1e6, abs=1)


def test_the_configuration_decides_for_jobs_that_run_the_model_and_grows_too():
    resources = {"memory_mb": 1000, "minutes": 30}
    assert request("evaluation", 2, resources=resources) == (2000, 60)
    assert request("files", resources=resources)[0] > 1000


def test_a_model_of_unknown_size_requests_its_own_once_it_is_there(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    requests = Requests(study(models={**SWEEP["models"], "new": {"source": "hub:a/b"}}))
    job = JobKind("training", "new", "boolq")
    assert requests.of(job, 2) == tuple(2 * number for number in UNKNOWN)
    (tmp_path / "models/new").mkdir(parents=True)
    (tmp_path / "models/new/config.json").write_bytes((tiny_models["llama"] / "config.json").read_bytes())
    assert 600 < requests.of(job, 1)[0] < UNKNOWN[0]


# Each pair: the settings of a job, and others with which it takes longer.
ROWS = {"train_examples": 8000, "validation_examples": 1000}
LONGER = {
    "training": ({"training": {"steps": 100}}, {"training": {"steps": 200}}),
    "training with a teacher": (
        {"training": {"steps": 9000}},
        {"training": {"steps": 9000, "distillation": {"weight": 0.5}}},
    ),
    "throughput": ({"throughput": {"repeats": 2}}, {"throughput": {"repeats": 4}}),
    "reconstruction": ({"reconstruction": {"steps": 10}}, {"reconstruction": {"steps": 20}}),
    "evaluation": ({"perplexity": None}, {"perplexity": {}}),
    "evaluation with windows": ({"evaluation": {"divergence": 0}}, {"evaluation": {"divergence": 900}}),
    "selection": (
        {"tasks": SWEEP["tasks"] | {"boolq": ROWS}},
        {"tasks": SWEEP["tasks"] | {"boolq": ROWS | {"selection_examples": 2000}}},
    ),
    "mask": ({"masks": {"calibration_examples": 64}}, {"masks": {"calibration_examples": 128}}),
    "sampling": (
        {"masks": {"calibration": {"self": {"text": "self", "examples": 64}}}},
        {"masks": {"calibration": {"self": {"text": "self", "examples": 128}}}},
    ),
}


@pytest.mark.parametrize("kind", LONGER)
def test_more_work_requests_more_time(kind):
    method = "unstructured_wanda" if kind == "mask" else ""
    few, more = (
        request(kind.split()[0], method=method, resources={"threads": 8}, **sections)[1] for sections in LONGER[kind]
    )
    assert few < more <= 2.5 * few


def test_a_kind_names_only_what_decides_its_requests():
    wildcards = SimpleNamespace(model="llama", task="boolq", method="unstructured_wanda", training="-long")
    of_text = SimpleNamespace(**vars(wildcards) | {"method": "unstructured_wanda_on_c4"})
    by_magnitude = SimpleNamespace(**vars(wildcards) | {"method": "unstructured"})
    assert JobKind.of("train_adapter", wildcards) == JobKind("training", "llama", "boolq", training="long")
    assert JobKind.of("compute_masks", wildcards) == JobKind("mask", "llama", "boolq", "unstructured_wanda")
    assert JobKind.of("prune", of_text) == JobKind("mask", "llama", "", "unstructured_wanda_on_c4")
    assert JobKind.of("compute_one_mask", by_magnitude) == JobKind("weights", "llama")
    assert JobKind.of("export_run", wildcards) == JobKind("files", "llama")


def test_every_rule_that_requests_memory_has_a_kind_and_no_other_one():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").rglob("*.smk")))
    blocks = re.findall(r"^(?:use )?rule (\w+)(?: as (\w+) with)?:\n((?:[ #].*\n|\n)*)", text, re.MULTILINE)
    requesting: set[str] = set()
    for first, second, body in blocks:
        if (first in requesting and second) or "requested(" in body:
            requesting.add(second or first)
    assert requesting == set(KIND_OF)


# SmolLM2's weights: a decoder layer's attention, MLP and norms, and outside of them the embedding and a norm.
DECODER_LAYER = 2 * 576 * (576 + 192) + 3 * 576 * 1536 + 2 * 576
OUTER = 49152 * 576 + 576
WIDEST = 576 * 1536


def need(kind: str, method: str = "", **sections: object) -> tuple[int, int]:
    """Return the bytes of a job with SmolLM2 on the device that computes, and in the machine."""
    config = laid_over({"tasks": {"boolq": {"train_examples": 200}}, "grid": {"tasks": ["boolq"]}, **sections})
    job = JobKind(kind, "smollm2", "boolq", method)
    device, machine = process_memory(config, job, described("smollm2", config.models["smollm2"]))
    return sum(device.values()), sum(machine.values())


# transformers computes the attention of a Gemma 2 with all its scores. With 60 tokens, they are half of its activations.
GEMMA2 = replace(
    GEMMA3,
    class_name="Gemma2ForCausalLM",
    layer_tensors={name: shape for name, shape in GEMMA3.layer_tensors.items() if name not in HEAD_NORMS},
    attention="eager",
)
CAPPED = {**GEMMA, "head_dim": 16, "sliding_window": 64, "attn_logit_softcapping": 2.0}


@pytest.fixture
def models(tiny_models, tmp_path, monkeypatch):
    """Return the folders of the tiny models, and of a Gemma 2, which is an added architecture."""
    monkeypatch.setattr("sparseft.architectures.ARCHITECTURES", (*ARCHITECTURES, GEMMA2))
    monkeypatch.setitem(MODELS, "gemma2", tiny_model("Gemma2", **CAPPED))
    return {**tiny_models, "gemma2": save_tiny("gemma2", tmp_path / "gemma2")}


@pytest.mark.long
@pytest.mark.parametrize("name", [*MODELS, "gemma2"])
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_activations_are_what_autograd_keeps(models, name, mode):
    checkpoint = Checkpoint(models[name])
    mask = compute_masks(checkpoint, "unstructured", [50])[50]
    model, _, layers = adapted_model(checkpoint, mask, mode, Training(lora_r=1), torch.device("cpu"))
    ids = torch.randint(0, 250, (2, 60))  # 60: within Mistral's window
    a_layer = described(name, Model(source=f"path:{checkpoint.folder}")).activation_bytes(60) * ids.numel()
    assert bytes_kept_for_backward(model, layers, ids) == pytest.approx(2 * a_layer, rel=0.2)


def test_an_eager_attention_holds_as_many_scores_at_once_as_the_estimate_says(models):
    checkpoint = Checkpoint(models["gemma2"])
    model, _ = load_model(checkpoint.folder, torch.device("cpu"))
    ids = torch.randint(0, 250, (2, 480))
    with torch.no_grad(), Peak() as peak:
        model.get_decoder()(input_ids=ids, use_cache=False)
    subject = described("gemma2", Model(source=f"path:{checkpoint.folder}"))
    assert peak.peak == pytest.approx(subject.forward_bytes(480) * ids.numel(), rel=0.2)


def test_an_added_architecture_cannot_forget_that_its_attention_is_eager(models, monkeypatch):
    forgetful = replace(GEMMA2, attention=GEMMA3.attention)
    monkeypatch.setattr("sparseft.architectures.ARCHITECTURES", (forgetful,))
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        load_model(models["gemma2"], torch.device("cpu"))


def test_the_longer_the_examples_of_an_eager_model_the_more_scores_are_planned(models):
    def batch(kind: str, length: int) -> int:
        tasks = {"own": {"kind": "text", "hub": "a/b", "length": length}}
        grid = {"models": ["gemma2"], "tasks": ["own"], "methods": ["unstructured"]}
        source = {"gemma2": {"source": f"path:{models['gemma2']}", "dtype": "bfloat16"}}
        config = laid_over({"models": source, "tasks": tasks, "grid": grid})
        job = JobKind(kind, "gemma2", "own")
        return process_memory(config, job, described("gemma2", config.models["gemma2"]))[0]["a batch"]

    for kind in ("training", "evaluation"):
        assert batch(kind, 256) > 3 * batch(kind, 128)


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
    # fp32; 128 examples of 140 tokens in the mean.
    states = 4 * 128 * 140 * 576
    device, machine = need("mask", method="unstructured_wanda")
    assert machine == PROGRAM + states + 3 * 4 * WIDEST
    assert 4 * (OUTER + DECODER_LAYER) < device < 4 * (OUTER + 2 * DECODER_LAYER)
    # A Hessian for each of the seven layers, and two matrices for the factor of the widest one.
    assert need("mask", method="unstructured_sparsegpt")[0] == device + 4 * (6 * 576**2 + 3 * 1536**2)


def test_masks_by_gradients_need_the_inputs_of_every_decoder_layer_and_the_scores_of_one():
    # fp32; 128 examples of 160 tokens, which is a multiple of 32; 30 inputs, and the gradients of one.
    kept = 31 * 4 * 128 * 160 * 576
    prunable = DECODER_LAYER - 2 * 576
    device, machine = need("mask", method="unstructured_fisher")
    assert machine == PROGRAM + kept + 4 * prunable
    assert device < 4 * (OUTER + 3 * DECODER_LAYER)
    together = need("mask", method="unstructured_fisher", masks={"scope": "global", "sequential": False})
    assert together == (device, PROGRAM + kept + 4 * 30 * prunable)
    on_gpu = need("mask", method="unstructured_fisher", resources={"gpus": 1})[0]
    assert on_gpu == device + CUDA + 4 * prunable


def test_a_reconstruction_needs_a_decoder_layer_and_twice_the_hidden_states():
    few, many = (need("reconstruction", reconstruction={"examples": examples}) for examples in (64, 128))
    assert many[1] - few[1] == 2 * 4 * 64 * 140 * 576
    assert many[0] == few[0] < 4 * (OUTER + 30 * DECODER_LAYER)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_divided_model_has_a_decoder_layer_and_the_embedding_twice_beside_its_part(processes):
    whole, divided = (
        need("training", training={"batch_size": 32, "micro_batch_size": 4, "shard_model": shard},
             resources={"processes": processes})[0] for shard in (False, True)
    )  # fmt: skip
    weights = OUTER + 30 * DECODER_LAYER
    assert whole - divided == 4 * (weights - weights // processes - 2 * (DECODER_LAYER + OUTER))


def test_checkpointing_and_cached_weights_change_the_memory_of_a_training_by_what_they_keep():
    plain, less, more = (
        need("training", training={"batch_size": 64, "micro_batch_size": 32, **settings})[0]
        for settings in ({}, {"gradient_checkpointing": True}, {"cache_weights": True})
    )
    prunable = 30 * (DECODER_LAYER - 2 * 576)
    assert less < plain
    assert more - plain == 4 * prunable


def test_a_teacher_takes_the_room_that_the_training_leaves_on_the_gpu_and_none_beside_a_divided_model():
    """LLaMA-7B: its weights are 13.5 GB, and its embedding, head and a decoder layer 0.9 GB."""
    job = JobKind("training", "llama", "boolq")
    subject = described("llama", study().models["llama"])
    outside = subject.width * subject.layer_and_outside
    # The settings of a training, and how much of its teacher is on the device.
    cases = [
        ({}, {}, subject.bytes, None),
        ({"shard_model": True}, {}, outside, 0),
        ({}, {"gpu_memory_mb": 80_000}, subject.bytes, None),
        ({}, {"gpu_memory_mb": 30_000}, None, None),
        ({}, {"gpu_memory_mb": 1}, outside, 0),
    ]
    for settings, memory, expected, room in cases:
        training = {"batch_size": 8, "micro_batch_size": 2, "distillation": {"weight": 0.5}, **settings}
        requests = Requests(study(training=training, resources={"gpus": 1} | memory))
        device, machine = process_memory(requests.config, job, subject)
        others = sum(device.values()) - device["teacher"]
        if expected is None:
            expected = int(1e6 * 30_000 - 1.3 * others)
            assert outside < expected < subject.bytes
        assert device["teacher"] == expected
        assert machine["layers in their files"] == subject.bytes - expected
        if memory:
            room = int(max(0, memory["gpu_memory_mb"] - 1.3 * others / 1e6))
        assert requests.weights_mb(job) == room
    assert Requests(study(resources={"gpus": 1, "gpu_memory_mb": 30_000})).weights_mb(job) is None


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_on_a_gpu_the_weights_go_tensor_by_tensor_through_the_machine_s_memory(kind):
    on_cpu, on_gpu = need(kind), need(kind, resources={"gpus": 1})
    assert on_cpu[1] == PROGRAM
    assert on_gpu[1] == PROGRAM + CUDA_LIBRARIES + LOADED * 4 * 49152 * 576
    # The softmax of an evaluation makes one copy less on a GPU.
    assert on_gpu[0] >= (on_cpu[0] if kind == "training" else LOGITS_ON_GPU / LOGITS * on_cpu[0]) + CUDA


def test_an_evaluation_takes_the_gpus_that_its_weights_need_and_leaves_room_for_its_batch():
    job = JobKind("evaluation", "llama", "boolq")
    subject = described("llama", study().models["llama"])
    eight = {"gpus": 8, "processes": 8}
    free, small, tiny = (
        Requests(study(resources=eight | memory, training={"micro_batch_size": 1}))
        for memory in ({}, {"gpu_memory_mb": 16_000}, {"gpu_memory_mb": 1})
    )
    assert (free.gpus(job), free.weights_mb(job)) == (1, None)
    on_gpu, _ = process_memory(small.config, job, subject)
    assert small.weights_mb(job) == pytest.approx(
        16_000 - 1.3 * (sum(on_gpu.values()) - on_gpu["weights"]) / 1e6, abs=1
    )
    assert small.gpus(job) * 1e6 * small.weights_mb(job) > subject.bytes > 1e6 * small.weights_mb(job)
    assert (tiny.gpus(job), tiny.weights_mb(job)) == (1, 0)
    assert process_memory(tiny.config, job, subject)[1]["layers in their files"] == subject.bytes
    on_cpu = Requests(study(resources={"memory_mb": 20_000}))
    assert on_cpu.gpus(job) == 0
    assert 0 < on_cpu.weights_mb(job) < 19_000
    unknown = Requests(study(models=SWEEP["models"] | {"new": {"source": "hub:a/b"}}, resources={"memory_mb": 1}))
    assert unknown.weights_mb(JobKind("evaluation", "new", "boolq")) is None


def test_an_evaluation_by_loss_has_one_copy_of_the_logits_and_on_a_gpu_only_of_some_rows():
    sections = {"tasks": {"own": {"kind": "text", "hub": "a/b", "length": 2048}}, "grid": {"tasks": ["own"]}}
    sizes = []
    for gpus in (0, 1):
        config = laid_over(sections | {"resources": {"gpus": gpus}})
        subject = described("smollm2", config.models["smollm2"])
        sizes.append(process_memory(config, JobKind("evaluation", "smollm2", "own"), subject)[0]["a batch"])
    tokens = 32 * 2048
    assert sizes[0] == 4 * tokens * (49152 + 576)
    assert sizes[1] < 4 * tokens * 49152 / 4
