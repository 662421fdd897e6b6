"""The perplexity is measured only if the configuration has it, and stands in the evaluation and the summary."""

import csv
import json

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.language_model.model import load_model
from sparseft.storage.hashes import sha256
from torch import device

pytestmark = pytest.mark.slow
DOCUMENTS = ["The cat sat on the mat, and then it ran away. ", "", "It came back."]
RUN = "results/runs/llama-hellaswag_mini-dense-sparsity00-no_finetune-seed0"


def test_it_goes_into_the_evaluation_and_the_summary(tmp_path, tiny_models):
    study = Study(tmp_path / "study")
    grid = {**tiny_grid("llama", "hellaswag_mini", ["random"]), "sparsities": [0], "modes": ["sparse_to_dense"]}
    study.configure(tiny_models, grid=grid, **TINY_STUDY)
    assert "prepare_wikitext2" not in study.planned()
    (study.folder / "wiki.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    study.configure(tiny_models, grid=grid, perplexity={"local": "wiki.jsonl", "context": 20}, **TINY_STUDY)
    study.snakemake()
    record = study.json(f"{RUN}/evaluation.json")
    text = study.folder / "data/wikitext2.txt"
    assert text.read_text() == "\n\n".join(DOCUMENTS)
    assert record["inputs"]["wikitext2"] == sha256(text)
    base = Checkpoint(study.folder / "models/llama")  # the run at sparsity 00 without training
    expected = token_perplexity(*load_model(base.folder, device("cpu")), text.read_text(), 20)
    assert record["metrics"]["local_text_ppl_20"] == expected  # only WikiText-2's perplexity has its name
    assert record["perplexity_source"] == {"local": sha256(study.folder / "wiki.jsonl")}
    with open(study.folder / "results/analysis/summary.csv") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    assert float(rows[RUN.rpartition("/")[2]]["local_text_ppl_20"]) == float(f"{expected:.10g}")
