"""Compare the measured memory with what the kernel reports, and products of float32 matrices with float64."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from project import ROOT
from sparseft.common.errors import InputError
from sparseft.models.language_model import products
from sparseft.models.language_model.hardware import choose_device, device_name, peak_memory
from sparseft.models.language_model.products import Linear, is_widened, linear, multiply

BLOCK = 300_000_000
MEASURE = f"""
import resource, torch
from sparseft.models.language_model.hardware import peak_memory
device = torch.device("cpu")
before = peak_memory(device)
block = bytes(1) * {BLOCK}
del block
print(before, peak_memory(device), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is itself what is reported")
def test_peak_memory_is_the_kernel_s_largest_resident_set_and_keeps_what_was_freed():
    # A shell between the two: what the kernel counts for getrusage begins with what the parent held, here 2 MB.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, kernel = map(int, done.stdout.split())
    assert after == pytest.approx(kernel, rel=0.01)
    assert after - before == pytest.approx(BLOCK, rel=0.05)


# What asks for products of rounded factors.
OVERRIDES = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
}
# Two products of 256 terms: by torch's usual library, and by oneDNN. Both have an error of about 4e-5 in float32, and
# of about 0.2 with factors in bfloat16, on a CPU that multiplies bfloat16.
MULTIPLY = """
import json, os, subprocess, sys
from sparseft.models.language_model.hardware import limit_threads
import torch
torch.set_float32_matmul_precision("medium")
limit_threads(1)
torch.manual_seed(0)
left, right = torch.randn(2, 256, 256).unbind()
exact = left.double() @ right.double()
products = [left @ right]
if torch.backends.mkldnn.is_available():
    products.append(torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], ""))
child = [sys.executable, "-c", "import os; print(list(os.environ))"]
print(json.dumps({
    "errors": [(product - exact).abs().max().item() for product in products],
    "precision": torch.get_float32_matmul_precision(),
    "tf32": torch.backends.cuda.matmul.allow_tf32,
    "reduced": [torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
                torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction],
    "sums": [(torch.ones(2, 60000, dtype=dtype) @ torch.ones(60000, 2, dtype=dtype)).unique().tolist()
             for dtype in (torch.float16, torch.bfloat16)],
    "inherited": subprocess.run(child, capture_output=True, text=True, check=True).stdout,
}))
"""
STAGES = sorted((ROOT / "lib/sparseft/stages").glob("[a-z]*.py"))
# It only checks a training.
WRITERS = {"gen_train_config"}


@pytest.mark.long
def test_products_of_float32_are_exact_whatever_the_environment_and_other_code_ask_for():
    command = [sys.executable, "-c", MULTIPLY]
    done = subprocess.run(command, env=os.environ | OVERRIDES, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert max(found["errors"]) < 1e-3
    assert (found["precision"], found["tf32"], found["reduced"]) == ("highest", False, [False, False])
    # A sum in bfloat16 would stop at 256, and one in float16 at 2048. 60,000 is rounded once.
    assert found["sums"] == [[60000.0], [59904.0]]
    assert [name for name in OVERRIDES if name in found["inherited"]] == []
    assert "TF32" not in done.stderr


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_a_stage_that_multiplies_sets_the_precision_and_loads_torch_when_it_runs(stage):
    text = stage.read_text()
    # What is imported at the top of a stage is imported by every plan.
    assert not re.search(r"^(?:from|import) (?:torch|transformers|pandas)", text, re.M)
    multiplies = re.search(
        r"import .*\b(evaluate|merge|calibrate|load_model|job_of|reconstruct|new_accelerator)\b", text
    )
    assert not multiplies or re.search(r"\b(limit_threads|start)\(", text) or stage.stem in WRITERS


@pytest.mark.parametrize("visible", ["", "NoDevFiles"])
def test_a_job_without_a_gpu_runs_on_the_cpu(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_device() == torch.device("cpu")


def test_a_job_that_shares_a_gpu_gets_its_share_of_the_memory(monkeypatch):
    limits = []
    stubs = {"is_available": lambda: True, "get_device_name": lambda _: "a card", "mem_get_info": lambda *_: (7e9, 8e9)}
    for name, stub in (stubs | {"set_per_process_memory_fraction": limits.append}).items():
        monkeypatch.setattr(torch.cuda, name, stub)
    assert choose_device() == torch.device("cuda")
    assert limits == []
    monkeypatch.setenv("SPARSEFT_JOBS_PER_GPU", "4")
    assert choose_device() == torch.device("cuda")
    # A quarter of 8 GB, without a CUDA context of 0.6 GB.
    assert limits == [pytest.approx(1.4 / 8)]
    assert device_name(torch.device("cuda")) == "GPU: a card, shared by 4 jobs"


def test_the_peak_memory_is_that_of_all_gpus_of_the_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", [5, 7, 0].__getitem__)
    assert peak_memory(torch.device("cuda")) == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that torch can use")
def test_a_job_whose_gpu_torch_cannot_use_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    with pytest.raises(InputError, match="^CUDA_VISIBLE_DEVICES is GPU-aa,GPU-bb, but torch .* sees no GPU"):
        choose_device()


EPSILON = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture
def slow(monkeypatch) -> None:
    """Let the processor be one that does not support bf16."""
    monkeypatch.setattr(products, "is_slow", lambda dtype: dtype in EPSILON)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("tokens", [50, 0])
@pytest.mark.parametrize("block", [16, 4096])
def test_a_product_in_fp32_is_rounded_once(slow, dtype, tokens, block, monkeypatch):
    monkeypatch.setattr(products, "BLOCK", block)
    dY, X = (torch.randn((tokens, size), generator=torch.Generator().manual_seed(size)).to(dtype) for size in (70, 30))
    exact = dY.double().T @ X.double()
    product = multiply(dY.T, X)
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=EPSILON[dtype] * exact.abs().max().item())
    assert not any(is_widened(torch.ones(1, **other)) for other in ({"dtype": torch.float32}, {"device": "meta"}))


@pytest.mark.parametrize("dtype", EPSILON)
def test_a_linear_layer_has_the_outputs_of_torch_and_its_gradients_to_their_rounding(slow, dtype):
    torchs = torch.nn.Linear(70, 30, dtype=dtype)
    ours = Linear(*map(torch.nn.Parameter, (torchs.weight.detach(), torchs.bias.detach())))
    x, dy = torch.randn(2, 5, 70, dtype=dtype), torch.randn(2, 5, 30, dtype=dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(own) for layer, own in zip((ours, torchs), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.backward(dy)
    for own, expected in zip((inputs[0], *ours.parameters()), (inputs[1], *torchs.parameters()), strict=True):
        bound = EPSILON[dtype] * expected.grad.abs().max().item()
        torch.testing.assert_close(own.grad, expected.grad, rtol=0, atol=bound)
    ours.weight.requires_grad_(False)
    assert linear(x, ours.weight).requires_grad is False
