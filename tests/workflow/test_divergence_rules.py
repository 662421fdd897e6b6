"""A study whose models sample the text on which the divergence of every run is measured."""

import csv

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
SAMPLED = "data/calibration_divergence-llama.jsonl"
RUN = f"results/runs/llama-{TASK}-{{}}-seed0/evaluation.json"


def configured(study: Study, tiny_models: dict, windows: int) -> dict[str, int]:
    """Configure a study with so many windows, and return the plan."""
    grid = {
        **tiny_grid("llama", TASK, ["layers_block_influence"]),
        "sparsities": [0, 50],
        "modes": ["sparse_to_sparse"],
    }
    evaluation = {"divergence": windows}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, evaluation=evaluation, **TINY_STUDY)
    return study.planned()


def test_every_run_has_its_divergence_and_more_windows_train_nothing(tmp_path, tiny_models):
    study = Study(tmp_path)
    # The text of the divergence, and that on which what removes decoder layers calibrates.
    assert configured(study, tiny_models, 3)["sample_text"] == 2
    study.snakemake("--cores", "2", "--quiet", "all")
    assert study.planned() == {}
    dense, trained, pruned = (
        study.json(RUN.format(name))
        for name in (
            "dense-sparsity00-no_finetune",
            "dense-sparsity00-sparse_to_dense",
            "layers_block_influence-sparsity50-no_finetune",
        )
    )
    assert (dense["divergence"], dense["same_top_tokens"], dense["divergences"]) == (0, 1, [0, 0, 0])
    assert trained["divergence"] != 0 != pruned["divergence"]
    assert {record["inputs"]["divergence"] for record in (dense, trained, pruned)} == {sha256(study.folder / SAMPLED)}
    # A mask looked at another text than the one on which its model is measured.
    assert pruned["inputs"]["calibration"] == [sha256(study.folder / "data/calibration_self-llama.jsonl")]
    with open(study.folder / "results/analysis/grouped_summary.csv") as file:
        cells = {(row["method"], row["mode"]): row for row in csv.DictReader(file)}
    cell = cells["layers_block_influence", "no_finetune"]
    assert float(cell["divergence"]) == pytest.approx(pruned["divergence"])
    assert float(cell["divergence_low"]) < pruned["divergence"] < float(cell["divergence_high"])
    assert {cells["dense", "no_finetune"][f"divergence{end}"] for end in ("", "_low", "_high")} == {"0"}

    again = {"merge_adapter": 4, "validate_sparsity": 4, "evaluate_run": 4, "analyze_results": 1, "analyze": 1}
    assert configured(study, tiny_models, 4).items() >= {"sample_text": 1, **again}.items()
    jobs = configured(study, tiny_models, 4).keys()
    assert not jobs & {"train_adapter", "evaluate_adapter", "compute_masks", "prune", "prepare_model", "prepare_task"}
    # Without it, everything is evaluated again, and nothing is sampled.
    assert configured(study, tiny_models, 0).keys() & {"sample_text", "train_adapter", "evaluate_run"} == {
        "evaluate_run"
    }
