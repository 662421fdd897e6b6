"""The estimated memory of a GPU beside what torch counts on the meta device."""

import json

import pytest
import torch
from peak import Peak
from project import laid_over
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.settings import Model
from sparseft.models.language_model.batches import Batch
from sparseft.models.language_model.loss import EVALUATED_ROWS, ROWS, AnswerLoss, CrossEntropyFunction
from sparseft.pruning.hessian import inverse, solve_damped
from sparseft.pruning.obs import choose_units, refit
from sparseft.stages.compute_masks import FACTORS
from sparseft.stages.train import DISTILLED
from sparseft.study.planning.needs import FP32_LOGITS, MOST_RANKS, PARTS, Job
from sparseft.study.planning.requests import CUDA, Requests
from sparseft.study.planning.sizes import NAMED, described
from sparseft.training.lora import effective_weight, masked_lora
from sparseft.training.lora.carried_mask import BLOCK
from sparseft.training.lora.masked_lora import LoRALinear, MaskedLoRALinear, attach
from sparseft.training.settings import Training
from sparseft.training.trained_part import model_to_train
from tiny_models import MODELS
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from masks import compute_masks

SOURCE = "hub:meta-llama/Meta-Llama-3-8B"


def flash(q, k, v, *_, is_causal=False, enable_gqa=False, **__):
    """Compute the attention as on a GPU: with the kernel that keeps no scores."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]


def counted(monkeypatch, sizes: dict, settings: Training, length: int, examples: int) -> dict[str, int]:
    """Return the peak bytes of a training with its optimizer, and of a batch of its evaluation, on text."""
    monkeypatch.setattr(effective_weight, "build", lambda out, *_: out)
    monkeypatch.setattr(masked_lora, "initial_factor", lambda r, columns, device: torch.empty(r, columns))
    monkeypatch.setattr(F, "scaled_dot_product_attention", flash)
    for rows in (ROWS, EVALUATED_ROWS, BLOCK):
        monkeypatch.setitem(rows, "meta", rows["cuda"])
    config = AutoConfig.for_model(**sizes, dtype=torch.bfloat16)

    def batch(size: int) -> Batch:
        answers = torch.zeros(size * (length - 1), dtype=torch.long)
        return Batch(torch.zeros(size, length, dtype=torch.long), answers, answers)

    with torch.device("meta"), (peak := Peak()):
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        paths = {name: name for name, _ in model.named_modules() if name.endswith("_proj")}
        masks = {name: torch.ones(model.get_submodule(name).weight.shape, dtype=torch.bool) for name in paths}
        layers = attach(model, masks.pop, paths, "sparse_to_sparse", settings, lambda *_: MaskedLoRALinear)
        if settings.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        loss = AnswerLoss(model)
        optimizer = torch.optim.AdamW([p for layer in layers.values() for p in (layer.lora_A, layer.lora_B)])
        # Masks are only there one at a time.
        peak.peak = peak.now
        for _ in range(2):
            loss(batch(settings.micro_batch_size)).sum().backward()
            optimizer.step()
        training, peak.peak = peak.peak, peak.now
        with torch.no_grad():
            loss.eval()(batch(examples))
    return {"training": training, "evaluation": peak.peak}


def test_a_distillation_has_not_more_logits_in_fp32_than_the_estimate_says(monkeypatch):
    monkeypatch.setitem(ROWS, "meta", ROWS["cuda"])
    rows, words = 1024, 1000
    with torch.device("meta"), (peak := Peak()):
        student, teacher = (torch.zeros(rows, words, dtype=torch.bfloat16) for _ in range(2))
        targets = torch.zeros(rows, dtype=torch.long)
        before = peak.now
        CrossEntropyFunction.apply(student.requires_grad_() * 1, targets, teacher, 2.0).sum().backward()
    # The product with 1 is there too.
    counted = peak.peak - before - student.nbytes
    assert 0.7 * DISTILLED * FP32_LOGITS * words < counted <= DISTILLED * FP32_LOGITS * words


@pytest.mark.parametrize(("r", "reads"), [(16, 1), (64, 2), (65, 0)])
def test_a_gradient_is_read_at_most_twice_and_its_parts_are_planned(r, reads, monkeypatch):
    """Above rank 64 it is masked once, and cuBLAS multiplies it. The meta device only counts."""
    triton_weights = pytest.importorskip(
        "sparseft.training.lora.triton_weights", reason="Triton is only on Linux with x86-64"
    )
    grids = []
    kernel = type("Kernel", (), {"__getitem__": lambda _, grid: grids.append(grid) or (lambda *_, **__: None)})()
    monkeypatch.setattr(triton_weights, "_gradients_part", kernel)
    with torch.device("meta"), Peak() as peak:
        G, W = (torch.empty(4096, 2048, dtype=torch.bfloat16) for _ in range(2))
        dA, dB, A, B = (torch.empty(*shape) for shape in 2 * [(r, 2048), (4096, r)])
        before = peak.now
        triton_weights.add_gradients(dA, dB, G, W, A, B)
    assert [grid[2] for grid in grids] == [reads] * bool(reads)
    # Beside the copies of A and B and of the sum.
    planned = PARTS * min(r, MOST_RANKS) * G.numel()
    assert peak.peak - before == pytest.approx(planned, abs=dA.nbytes + dB.nbytes + A.nbytes) or not reads


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "stage", "layers"),
    [({}, "training", 20), ({"gradient_checkpointing": True, "eval_every": 1}, "evaluation", 4)],
)
def test_the_estimate_of_an_8b_model_on_texts_is_what_torch_counts_or_up_to_twice_as_much(
    tmp_path, monkeypatch, settings, stage, layers
):
    """Count fewer than its 32 decoder layers, because they are equal."""
    sizes = NAMED[SOURCE] | {"num_hidden_layers": layers}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    settings = {"batch_size": 32, "micro_batch_size": 1, **settings}
    tasks = {"own": {"kind": "text", "hub": "a/b", "length": 2048}}
    models = {"llama": {"source": f"path:{tmp_path}"}}
    config = laid_over({"models": models, "tasks": tasks, "training": settings, "resources": {"gpus": 1}})
    estimated, _ = Requests(config).bytes_of(Job("train", "llama", "own", mode="sparse_to_sparse"))
    peaks = counted(monkeypatch, sizes, Training(**settings), 2048, config.evaluation_batch_size)
    assert peaks[stage] == max(peaks.values())
    assert peaks[stage] <= estimated - CUDA <= 2 * peaks[stage]


def test_removed_channels_need_at_most_three_matrices_beside_their_hessian():
    weights, inputs = torch.randn(8, 256), torch.randn(300, 256)
    hessian = inputs.T @ inputs
    with Peak() as peak:
        diagonal = hessian.diagonal()
        inverted, _ = solve_damped("layer", hessian, diagonal, diagonal.mean(), 0.01, inverse)
        kept = choose_units(weights, inverted, 1, 128, 16)
        refit("layer", weights, hessian, kept, 0.01)
    planned = (4 + FACTORS) * 256**2
    assert 0.6 * planned < peak.peak <= 1.05 * planned


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_activations_are_what_autograd_keeps(tiny_models, name, mode):
    checkpoint = Checkpoint(tiny_models[name])
    mask = compute_masks(checkpoint, "unstructured", [50])[50]
    part, _ = model_to_train(checkpoint, mask, mode, Training(lora_r=1), torch.device("cpu"))
    ids = torch.randint(0, 250, (2, 60))  # 60: within Mistral's window
    a_layer = described(name, {name: Model(source=f"path:{checkpoint.folder}")}).activation_bytes * ids.numel()
    assert bytes_kept_for_backward(part.loss.model, part.layers, ids) == pytest.approx(2 * a_layer, rel=0.2)


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
