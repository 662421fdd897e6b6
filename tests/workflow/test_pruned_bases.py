"""Methods that update weights, through the workflow: a pruned base per sparsity, from which the runs start."""

import json

import pandas as pd
import pytest
from project import TINY_STUDY, Study, tiny_grid

pytestmark = pytest.mark.slow
METHODS = ["unstructured", "unstructured_sparsegpt", "semistructured_sparsegpt_on_web"]
BASES = {
    "unstructured_sparsegpt": "pruned/llama/boolq_mini/sparsity50_unstructured_sparsegpt",
    "semistructured_sparsegpt_on_web": "pruned/llama/sparsity50_semistructured_sparsegpt_on_web",
}
RUN = "results/runs/llama-boolq_mini-{}-sparsity50-{}-seed0"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    study = Study(tmp_path_factory.mktemp("pruned_bases"))
    documents = [f"Page {number} has {number * 17} words." for number in range(40)]
    (study.folder / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    text = {"text": "web.jsonl", "examples": 8, "length": 12}
    masks = {"calibration_examples": 4, "sparsegpt_block": 16, "calibration": {"web": text}}
    grid = {**tiny_grid("llama", "boolq_mini", METHODS), "sparsities": [0, 50]}
    study.configure(tiny_models, grid=grid, masks=masks, **TINY_STUDY)
    study.snakemake()
    return study


def test_the_study_has_no_fault_and_proves_every_run(study):
    table = pd.read_csv(study.folder / "results/analysis/summary.csv")
    assert len(table) == 2 + 3 * len(METHODS)
    assert (table["verdict"] == "sound").all() if "verdict" in table else True
    for method in METHODS:
        for mode in ("no_finetune", "sparse_to_dense", "sparse_to_sparse"):
            assert study.json(f"{RUN.format(method, mode)}/validation_report.json")["passed"]
