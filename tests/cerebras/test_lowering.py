"""The training step through the front end of the wafer's compiler, which needs no appliance and runs no step."""

import pytest
from project import TINY_STUDY, run_script, tiny_grid
from runs import written
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.data.rows import write_rows
from sparseft.study.config import Config
from sparseft.study.grid import Run
from sparseft.study.section import parse_section
from sparseft.study.targets import program_name, program_of
from sparseft.tasks import BY_NAME
from tiny_models import PRUNABLE_LAYERS

from masks import compute_masks, write_mask

STOCK_EXPERTS = "import sparseft.trainers.fixed_shapes as f; f.make_experts_dense = lambda model: None"


def lower(inputs, output, run: str) -> list[int]:
    """Lower a training, and return the numbers of sparse parameters in its step and in its evaluation's."""
    done = inputs.train(output, run, validate_only=True)
    assert written(done, output / "compile.json")["compile_hash"]
    assert done.stderr.count("Compile validated locally") == 2
    assert {path.name for path in output.iterdir()} == {"cerebras_logs", "compile.json"}
    graphs = sorted(output.glob("cerebras_logs/executors/0*/cirh.mlir"))
    return [graph.read_text().count("cs.sparsity = ") for graph in graphs]


@pytest.mark.parametrize(
    "run",
    ["llama-unstructured-50-sparse_to_sparse", "mistral-unstructured-50-sparse_to_dense",
     "mixtral-unstructured-50-sparse_to_sparse", "llama-structured-50-sparse_to_sparse"],
)  # fmt: skip
def test_a_sparse_training_lowers_with_every_pruned_layer_declared(inputs, tmp_path, run):
    # Channels are those of the MLP, in two decoder layers.
    pruned = 2 * 3 if "-structured-" in run else PRUNABLE_LAYERS[run.split("-")[0]]
    assert lower(inputs, tmp_path, run) == [pruned] * 2


def test_the_same_check_refuses_an_operation_that_is_not_supported(inputs, tmp_path):
    done = inputs.train(tmp_path, "mixtral-dense-00-sparse_to_dense", patch=STOCK_EXPERTS, validate_only=True)
    assert done.returncode == 2
    assert "Compile validated locally" not in done.stderr
    assert "aten::" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "compile.json").exists()


def test_runs_that_share_a_program_lower_to_one_graph_and_others_do_not(tmp_path, tiny_models):
    """The name of a program, by which the rules compile it once, is the same for the same graph."""
    model = tiny_models["llama"]
    base = Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_sparse", 0)
    others = [Run("llama", "gsm8k_mini", "unstructured", 50, "sparse_to_sparse", 0),
              Run("llama", "boolq_mini", "random", 50, "sparse_to_sparse", 1),
              Run("llama", "boolq_mini", "unstructured", 80, "sparse_to_sparse", 0),
              Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_dense", 0)]  # fmt: skip
    cells = tiny_grid("llama", "boolq_mini", ["unstructured", "random"])
    cells |= {"tasks": ["boolq_mini", "gsm8k_mini"], "sparsities": [0, 50, 80], "seeds": [0, 1]}
    raw = {"models": {"llama": {"source": "path:x"}}, "backend": "cerebras", **TINY_STUDY, "grid": cells}
    study, graphs, names = parse_section(Config, raw, "configuration"), [], []
    for run in (base, *others):
        data, output = tmp_path / run.task, tmp_path / run.id
        data.mkdir(exist_ok=True)
        for split, number in (("train", 16), ("validation", 4)):
            write_rows(data / f"{split}.jsonl", BY_NAME[run.task].generate(split, number, 0))
        write_mask(tmp_path / "mask.pt", compute_masks(Checkpoint(model), run.method, [run.sparsity])[run.sparsity])
        given = {"run_id": run.id, "model_path": model, "mask_path": tmp_path / "mask.pt", "data_dir": data,
                 "output_dir": output, "sequence_length": 128, "steps": 3, "batch_size": 4, "micro_batch_size": 4}  # fmt: skip
        flags = [word for name, value in given.items() for word in (f"--{name}", value)]
        done = run_script("train_cerebras.py", *flags, "--validate_only")
        graphs.append(written(done, output / "compile.json")["compile_hash"])
        names.append(program_name(study, program_of(study, run)))
    assert [name == names[0] for name in names] == [True, True, True, False, False]
    assert [graph == graphs[0] for graph in graphs] == [True, True, True, False, False]
