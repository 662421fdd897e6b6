"""Models without some experts or decoder layers through the workflow, and a model that is made from one of them."""

import csv

import pytest
import yaml
from project import TINY_STUDY, Study, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.masks.mask_file import read_mask
from tiny_models import save_tiny

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
METHODS = ["experts_reap", "layers_block_influence"]
BASE = f"mixtral/{TASK}/sparsity21_experts_reap"
MASKS = {"calibration_examples": 4}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Return a study in which 21 % is one of four experts, and one of five decoder layers."""
    study = Study(tmp_path_factory.mktemp("smaller"))
    models = {"mixtral": save_tiny("mixtral", study.folder / "mixtral", changes={"num_hidden_layers": 5})}
    grid = {**tiny_grid("mixtral", TASK, METHODS), "sparsities": [0, 21]}
    study.configure(models, grid=grid, masks=MASKS, keep_merged=True, **TINY_STUDY)
    assert study.planned("masks")["prune"] == 2
    study.snakemake("--cores", "2", "--quiet", "all")
    assert study.planned() == {}
    return study


def summary(study: Study, folder: str = "results") -> list[dict[str, str]]:
    with open(study.folder / folder / "analysis/summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_have_the_share_that_was_removed_and_the_size_of_each_merged_model(study):
    rows = summary(study)
    assert len(rows) == 2 + 2 * 3
    assert {row["status"] for row in rows} == {"sound"}
    parent = Checkpoint(study.folder / "models/mixtral").totals()
    reached = {"dense": 0.0, "experts_reap": 100 * 4608 / 21504, "layers_block_influence": 20.0}
    for row in rows:
        assert float(row["reached_sparsity"]) == pytest.approx(reached[row["method"]])
        model = Checkpoint(study.folder / f"results/runs/{row['run_id']}/model_dir")
        assert {"parameters": int(row["parameters"]), "bytes": int(row["model_bytes"])} == model.totals()
        assert (int(row["parameters"]) < parent["parameters"]) == (row["method"] != "dense")


def test_experts_are_reconstructed_and_a_model_made_from_a_pruned_base_is_a_model_like_any_other(study):
    reconstructed = f"results/again/runs/mixtral-{TASK}-experts_reap-sparsity21-reconstruct-seed0"
    grid = {**tiny_grid("mixtral", TASK, ["experts_reap"]), "sparsities": [21], "modes": ["reconstruct"]}
    sections = {
        "masks": MASKS,
        "reconstruction": {"examples": 4, "steps": 12, "batch_size": 2, "learning_rate": 0.01},
        **TINY_STUDY,
    }
    study.configure({"mixtral": study.folder / "mixtral"}, grid=grid, results="results/again", **sections)
    study.snakemake("--cores", "2", f"{reconstructed}/evaluation.json")
    layers = study.json(f"{reconstructed}/train.json")["reconstruction"]["layers"]
    assert all(layer["error_after"] < layer["error_before"] for layer in layers)

    grid = {**tiny_grid("part", TASK, ["unstructured_wanda"]), "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    study.configure({"mixtral": study.folder / "mixtral"}, grid=grid, results="results/part", masks=MASKS, **TINY_STUDY)
    configuration = yaml.safe_load((study.folder / "study.yaml").read_text())
    configuration["models"]["part"] = {"source": f"pruned:{BASE}", "dtype": "bfloat16"}
    (study.folder / "study.yaml").write_text(yaml.safe_dump(configuration))
    assert "prune" not in study.planned()
    study.snakemake("--cores", "2", "--quiet", "all")
    assert {row["status"] for row in summary(study, "results/part")} == {"sound"}
    base, model = Checkpoint(study.folder / f"pruned/{BASE}"), Checkpoint(study.folder / "models/part")
    assert model.digest == base.digest
    mask = read_mask(study.folder / f"masks/part/{TASK}/masks_sparsity50_unstructured_wanda.pt")
    assert mask.meta["base"] == model.digest
