"""OWL through the workflow: every layer's own sparsity in the masks, the proofs and the tables."""

import csv

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.checkpoints.layers import decoder_layer_of

pytestmark = pytest.mark.slow
METHODS = ["unstructured_owl", "semistructured_wanda_owl"]
MASKS = {"calibration_examples": 4, "nm_group": 8, "owl_lambda": 0.15, "owl_m": 2.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    study = Study(tmp_path_factory.mktemp("owl"))
    grid = {**tiny_grid("llama", "hellaswag_mini", METHODS), "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    study.configure(tiny_models, grid=grid, masks=MASKS, **TINY_STUDY)
    study.snakemake()
    return study


def rows(study: Study, table: str) -> list[dict]:
    with open(study.folder / "results/analysis" / f"{table}.csv") as file:
        return list(csv.DictReader(file))


def test_every_run_passes_its_proof_and_belongs_to_the_study(study):
    summary = rows(study, "summary")
    assert len(summary) == 2 + 2 * len(METHODS)
    for row in summary:
        assert row["status"] == "sound"
        assert float(row["reached_sparsity"]) == (0 if row["method"] == "dense" else 50)
    assert rows(study, "missing") == []
    memo = (study.folder / "results/analysis/correctness_memo.md").read_text()
    assert "The chain of hashes holds in 6 of 6 runs" in memo


def test_the_layers_of_the_merged_models_have_the_profile_of_the_report(study):
    for method in METHODS:
        report = study.json(f"masks/llama/hellaswag_mini/report_{method}.json")
        (half,) = (part for part in report["sparsities"] if part["asked_percent"] == 50)
        expected = {row["layer"]: row["reached"] for row in half["layers"]}
        run = f"llama-hellaswag_mini-{method}-sparsity50-no_finetune-seed0"
        layers = study.json(f"results/runs/{run}/validation_report.json")["layers"]
        found = {row["layer"]: row["pruned"] / row["weights"] for row in layers}
        assert found == pytest.approx(expected)
        fewest = report["outliers"].index(min(report["outliers"]))
        for layer, reached in expected.items():
            assert (reached > 0.5) == (decoder_layer_of(layer) == fewest)


def test_a_change_of_m_computes_the_masks_of_these_methods_again(study):
    text = (study.folder / "study.yaml").read_text()
    (study.folder / "study.yaml").write_text(text.replace("owl_m: 2.0", "owl_m: 3.0"))
    planned = study.planned("masks")
    (study.folder / "study.yaml").write_text(text)
    assert planned == {"compute_task_masks": len(METHODS), "masks": 1}
