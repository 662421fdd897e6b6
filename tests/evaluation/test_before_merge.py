"""The evaluation of a merged model is copied only if a second one before the merge would give the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from project import call_script
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.evaluation.before_merge import take_over
from sparseft.storage.record import write_record
from tiny_models import save_tiny

from masks import compute_masks, write_mask


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The tiny LLaMA in float32."""
    return save_tiny("llama", tmp_path_factory.mktemp("base") / "llama", torch.float32)


def run_stages(base: Path, folder: Path, method: str, mode: str, *, is_named: bool = True) -> Path:
    """Train, merge and evaluate a run; return its folder. Without `is_named`, merge and evaluation get no --run_id."""
    run = folder / f"llama-boolq_mini-{method}-sparsity50-{mode}-seed0"
    write_mask(folder / "mask.pt", compute_masks(Checkpoint(base), method, [50])[50])
    said = call_script("prepare_task.py", task="boolq_mini", train_examples=16, validation_examples=12,
                       output_dir=folder / "data")  # fmt: skip
    assert said[0] == 0, said
    shared = {"model_path": base, "mask_path": folder / "mask.pt"}
    scored = {"task": "boolq_mini", "data_dir": folder / "data"}
    stages = {
        "train.py": {**shared, "run_id": run.name, "data_dir": folder / "data", "output_dir": run, "steps": 3,
                     "learning_rate": 0.05, "batch_size": 4, "micro_batch_size": 4, "lora_r": 4},
        "merge.py": {**shared, "run_id": run.name, "adapter": run / "adapter", "output_dir": run / "model_dir",
                     "report": run / "merge.json"},
        "evaluate.py": {**scored, "run_id": run.name, "checkpoint": run / "model_dir", "output": run / "evaluation.json"},
    }  # fmt: skip
    for script, flags in stages.items():
        if not is_named and script != "train.py":
            del flags["run_id"]
        said = call_script(script, **flags)
        assert said[0] == 0, said
    return run


def evaluate_before(base: Path, run: Path, output: str, **flags: Path | str) -> tuple[int, str]:
    folder = run.parent
    given = {"run_id": run.name, "model_path": base, "mask_path": folder / "mask.pt", "adapter": run / "adapter",
             "task": "boolq_mini", "data_dir": folder / "data", "output": run / output}  # fmt: skip
    return call_script("evaluate_adapter.py", **given | flags)


def records_of(run: Path) -> dict[str, Path]:
    return {"merge": run / "merge.json", "evaluation": run / "evaluation.json"}


def result(path: Path) -> dict:
    """Return a record without the fields that differ between two equal evaluations."""
    content = json.loads(path.read_text())
    return {
        name: content[name] for name in content.keys() - {"seconds", "peak_memory_bytes", "record_sha256", "taken_from"}
    }


@pytest.mark.process
@pytest.mark.parametrize(("method", "mode", "is_taken_over"), [
    ("unstructured", "sparse_to_sparse", True),
    ("structured", "sparse_to_sparse", False),
    ("unstructured", "sparse_to_dense", False),
])  # fmt: skip
def test_the_evaluation_that_is_taken_over_is_that_of_the_model_before_the_merge(
    tmp_path, base, method, mode, is_taken_over
):
    run = run_stages(base, tmp_path, method, mode)
    assert evaluate_before(base, run, "own.json")[0] == 0
    assert evaluate_before(base, run, "before_merge.json", **records_of(run))[0] == 0
    assert json.loads((run / "merge.json").read_text())["as_trained"] is is_taken_over
    before = json.loads((run / "before_merge.json").read_text())
    assert (before["taken_from"] is not None) is is_taken_over
    assert result(run / "before_merge.json") == result(run / "own.json")


INPUTS = {"model": "base", "mask": "mask", "adapter": "adapter", "data": "rows", "train": "train rows"}
RUN_ID = "a run"
MERGE = {
    "run_id": RUN_ID,
    "inputs": {"model": "base", "mask": "mask", "adapter": "adapter"},
    "outputs": {"f": "1"},
    "as_trained": True,
}
EVALUATION = {
    "run_id": RUN_ID,
    "task": "boolq_mini",
    "inputs": {"model": {"f": "1"}, "data": "rows", "train": "train rows"},
    "device": "CPU: a processor, 1 thread",
    "metrics": {"acc": 0.5, "wikitext2_ppl_2048": 20.0},
}


def taken(folder: Path, merge: dict, evaluation: dict) -> dict | None:
    write_record(folder / "merge.json", merge)
    write_record(folder / "evaluation.json", evaluation)
    return take_over(folder / "merge.json", folder / "evaluation.json", RUN_ID, "boolq_mini", INPUTS)


def test_a_perplexity_of_the_merged_model_is_not_taken_over(tmp_path):
    assert taken(tmp_path, MERGE, EVALUATION)["metrics"] == {"acc": 0.5}


def test_nothing_is_taken_over_from_a_gpu_or_from_a_merge_in_another_order(tmp_path):
    assert taken(tmp_path, MERGE, EVALUATION | {"device": "GPU: a card"}) is None
    assert taken(tmp_path, MERGE | {"as_trained": False}, EVALUATION) is None


def test_nothing_is_taken_over_from_the_records_of_another_run_or_task(tmp_path):
    assert taken(tmp_path, MERGE | {"run_id": None}, EVALUATION) is None
    assert taken(tmp_path, MERGE, EVALUATION | {"run_id": "another run"}) is None
    assert taken(tmp_path, MERGE, EVALUATION | {"task": "boolq"}) is None


@pytest.mark.process
def test_an_adapter_of_another_run_is_refused_whatever_records_are_beside_it(tmp_path, base):
    """Both runs have the same mask, and the merge had no --run_id."""
    run = run_stages(base, tmp_path, "unstructured", "sparse_to_sparse", is_named=False)
    other = run.name.replace("seed0", "seed1")
    said = evaluate_before(base, run, "before_merge.json", run_id=other, **records_of(run))
    assert said[0] == 2 and not (run / "before_merge.json").exists()


@pytest.mark.parametrize(("file", "key"), [("merge.json", "model"), ("merge.json", "mask"), ("merge.json", "adapter"),
                                           ("evaluation.json", "data"), ("evaluation.json", "train")])  # fmt: skip
def test_records_of_another_model_or_of_other_examples_are_refused(tmp_path, file, key):
    merge = json.loads(json.dumps(MERGE))
    evaluation = json.loads(json.dumps(EVALUATION))
    (merge if file == "merge.json" else evaluation)["inputs"][key] = "another"
    with pytest.raises(InputError, match=f"{file}.*{key}"):
        taken(tmp_path, merge, evaluation)


def test_an_evaluation_of_another_merged_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"evaluation.json.*merge.json"):
        taken(tmp_path, MERGE | {"outputs": {"f": "2"}}, EVALUATION)
