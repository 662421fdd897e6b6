"""The training step through the front end of the wafer's compiler, which needs no appliance and runs no step."""

import json
import resource
from pathlib import Path

import pytest
from runs import in_default_environment
from tiny_models import PRUNABLE_LAYERS

STOCK_EXPERTS = "import sparseft.backends.fixed_shapes as f; f.make_experts_dense = lambda model: None"


def lower(inputs, output: Path, run: str, **options) -> dict:
    """compile.json, after a lowering that passed, and the sparse parameters of training and evaluation."""
    done = inputs.train(output, run, "--validate_only", **options)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("Compile validated locally") == 2  # a training step, an evaluation step
    assert {path.name for path in output.iterdir()} == {"cerebras_logs", "compile.json"}
    graphs = sorted(output.glob("cerebras_logs/executors/0*/cirh.mlir"))
    sparse = [graph.read_text().count("cs.sparsity = 5.0") for graph in graphs]
    return json.loads((output / "compile.json").read_text()) | {"sparse": sparse}


@pytest.mark.parametrize(
    "run",
    ["llama-unstructured-50-sparse_to_sparse", "mistral-unstructured-50-sparse_to_dense",
     "mixtral-unstructured-50-sparse_to_sparse", "llama-structured-50-sparse_to_sparse"],
)  # fmt: skip
def test_a_sparse_training_lowers_with_every_prunable_layer_declared(inputs, tmp_path, run):
    assert lower(inputs, tmp_path, run)["sparse"] == [PRUNABLE_LAYERS[run.split("-")[0]]] * 2


def test_the_same_check_refuses_an_operation_that_is_not_supported(inputs, tmp_path):
    done = inputs.train(tmp_path, "mixtral-dense-00-sparse_to_dense", "--validate_only", patch=STOCK_EXPERTS)
    assert done.returncode == 2
    assert "Compile validated locally" not in done.stderr
    assert "aten::" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "compile.json").exists()


def test_a_program_is_the_same_for_another_seed_and_another_for_another_mode(inputs, tmp_path):
    run = "llama-unstructured-50-sparse_to_sparse"
    flags = {"run_id": f"llama-boolq_mini-{run[6:].replace('-50-', '-sparsity50-')}-seed7"}
    hashes = [
        lower(inputs, tmp_path / "a", run)["compile_hash"],
        lower(inputs, tmp_path / "b", run, **flags)["compile_hash"],
        lower(inputs, tmp_path / "c", run.replace("to_sparse", "to_dense"))["compile_hash"],
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("model", ["llama7b", "mistral7b"])
def test_real_shapes_lower(inputs, tmp_path, model):
    """Two of the 32 layers, random weights of the published shapes: half a minute, 5.5 GB and 5.7 GB, on 2 cores."""
    in_default_environment("make_real", inputs.folder, model)
    found = lower(inputs, tmp_path, f"{model}-random-50-sparse_to_sparse")
    assert found["sparse"] == [14, 14]  # 2 x 7, in the training step and in the evaluation's
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    print(f"{model}: peak {peak:.1f} GB")
