"""Train the weights of the tiny LLaMA through the workflow, first on a text and then on a task."""

import pytest
from hub_cache import write
from project import Study, tiny_grid

pytestmark = pytest.mark.slow
RUN = "results/runs/llama-{}-unstructured-sparsity50-{}-seed0"
LORA, FULL, DENSE = "sparse_to_sparse", "full_sparse_to_sparse", "full_sparse_to_dense"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study of a task whose runs are first trained on a text."""
    study = Study(tmp_path_factory.mktemp("full"))
    for split, number in (("train", 60), ("validation", 20)):
        rows = [{"text": f"Page {n} of {split} has {n * 17} words."} for n in range(number)]
        write(study.folder / f"pages/{split}.jsonl", rows)
    tasks = {
        "pages": {"kind": "text", "local": "pages", "length": 16},
        "boolq_mini": {"train_examples": 16, "validation_examples": 8},
    }
    grid = tiny_grid("llama", "", ["unstructured"], tasks=list(tasks), sparsities=[0, 50], modes=[LORA, FULL, DENSE])
    training = {"steps": 3, "batch_size": 2, "micro_batch_size": 1, "recover_on": "pages", "full_learning_rate": 0.01}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, tasks=tasks, training=training)
    planned = study.planned()
    assert (planned["train_weights"], planned["train_adapter"]) == (6, 4)
    study.snakemake("--cores", "2")
    assert study.planned() == {}
    return study


def test_every_run_is_sound_and_compared_with_the_dense_model_that_was_trained_alike(study):
    rows = {(row["task"], row["method"], row["mode"]): row for row in study.table()}
    # The proof of a model whose mask was lifted says so.
    assert {row["status"] for row in rows.values() if row["mode"] != DENSE} == {"sound"}
    assert {row["status"] for row in rows.values() if row["mode"] == DENSE} == {"not fully checked"}
    assert {mode for task, method, mode in rows if method == "dense"} == {"no_finetune", "sparse_to_dense", FULL}
    assert float(rows["boolq_mini", "unstructured", FULL]["reached_sparsity"]) == 50
    assert float(rows["boolq_mini", "unstructured", DENSE]["reached_sparsity"]) == 0
    compared = [row for row in study.table("results/analysis/comparisons.csv") if row["against_method"] == "dense"]
    assert {(row["mode"], row["against_mode"]) for row in compared} >= {(FULL, FULL), (LORA, "sparse_to_dense")}


@pytest.mark.parametrize("mode", [LORA, FULL, DENSE])
def test_a_run_continues_the_training_on_the_text_and_its_merge_changes_no_answer(study, mode):
    first, second = (study.json(f"{RUN.format(task, mode)}/train.json") for task in ("pages", "boolq_mini"))
    assert first["inputs"]["initial_adapter"] is None
    assert second["inputs"]["initial_adapter"] == first["outputs"]["adapter"] != second["outputs"]["adapter"]
    assert (second["lora_r"] is None, second["train"] is None) == (mode != LORA, mode == LORA)
    if mode != LORA:
        assert second["learning_rate"] == 0.01
        assert study.json(f"{RUN.format('pages', mode)}/merge.json")["as_trained"]
    run = RUN.format("boolq_mini", mode)
    before, after = (study.json(f"{run}/{name}.json") for name in ("before_merge", "evaluation"))
    assert before["log_likelihoods"] == after["log_likelihoods"]
