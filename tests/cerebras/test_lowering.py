"""The training step through the front end of the wafer's compiler, which needs no appliance and runs no step."""

import pytest
from tiny_models import PRUNABLE_LAYERS

STOCK_EXPERTS = "import sparseft.training.trainers.fixed_shapes as f; f.make_experts_dense = lambda model: None"


@pytest.mark.parametrize(
    "run",
    ["llama-unstructured-50-sparse_to_sparse", "mistral-unstructured-50-sparse_to_dense",
     "mixtral-unstructured-50-sparse_to_sparse", "llama-structured-50-sparse_to_sparse"],
)  # fmt: skip
def test_a_sparse_training_lowers_with_every_pruned_layer_declared(inputs, tmp_path, run):
    # Channels are those of the MLP, in two decoder layers.
    pruned = 2 * 3 if "-structured-" in run else PRUNABLE_LAYERS[run.split("-")[0]]
    done = inputs.train(tmp_path, run, validate_only=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("Compile validated locally") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"cerebras_logs"}
    graphs = sorted(tmp_path.glob("cerebras_logs/executors/0*/cirh.mlir"))
    # Of the step, and of the evaluation.
    assert [graph.read_text().count("cs.sparsity = ") for graph in graphs] == [pruned] * 2


def test_the_same_check_refuses_an_operation_that_is_not_supported(inputs, tmp_path):
    done = inputs.train(tmp_path, "mixtral-dense-00-sparse_to_dense", patch=STOCK_EXPERTS, validate_only=True)
    assert done.returncode == 2
    assert "Compile validated locally" not in done.stderr
    assert "aten::" in done.stderr.splitlines()[-1]
