"""Models without some experts, decoder layers or channels through the workflow, and one that is made from another."""

import pytest
import yaml
from project import TINY_STUDY, Study, tiny_grid
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.masks.mask_file import read_mask
from tiny_models import save_tiny

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
METHODS = ["experts_reap_on_task", "layers_block_influence", "structured_obs"]
BASE = f"mixtral/{TASK}/sparsity21_experts_reap_on_task"
MASKS = {"calibration_examples": 4, "calibration": {"self": {"text": "self", "examples": 8, "length": 64}}}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Return a study in which 21 % is one of four experts, and one of five decoder layers."""
    study = Study(tmp_path_factory.mktemp("smaller"))
    models = {"mixtral": save_tiny("mixtral", study.folder / "mixtral", changes={"num_hidden_layers": 5})}
    grid = tiny_grid("mixtral", TASK, METHODS, sparsities=[0, 21], modes=["sparse_to_sparse"])
    study.configure(models, grid=grid, masks=MASKS, keep_merged=True)
    assert {rule: study.planned("masks")[rule] for rule in ("prune", "sample_text")} == {"prune": 3, "sample_text": 1}
    study.snakemake("--cores", "2", "--quiet", "all")
    assert study.planned() == {}
    return study


def test_the_tables_have_the_share_that_was_removed_and_the_size_of_each_merged_model(study):
    rows = study.table()
    assert len(rows) == 2 + 3 * 2
    assert {row["status"] for row in rows} == {"sound"}
    parent = Checkpoint(study.folder / "models/mixtral").totals()
    # Of 48 channels in each of 4 experts, 12 of the 21 % are left out, with 3 * 32 weights each, of 21,504 weights per
    # layer.
    reached = {"dense": 0.0, METHODS[0]: 100 * 4608 / 21504, METHODS[1]: 20.0, METHODS[2]: 100 * 4 * 12 * 96 / 21504}
    for row in rows:
        assert float(row["reached_sparsity"]) == pytest.approx(reached[row["method"]])
        model = Checkpoint(study.folder / f"results/runs/{row['run_id']}/model_dir")
        assert {"parameters": int(row["parameters"]), "bytes": int(row["model_bytes"])} == model.totals()
        # Channels are left out by an export.
        assert (int(row["parameters"]) < parent["parameters"]) == (row["method"] in METHODS[:2])


def test_experts_are_reconstructed_and_a_model_made_from_a_pruned_base_is_a_model_like_any_other(study):
    methods = [METHODS[0], METHODS[2]]
    reconstructed = [f"results/again/runs/mixtral-{TASK}-{method}-sparsity21-reconstruct-seed0" for method in methods]
    grid = tiny_grid("mixtral", TASK, methods, sparsities=[21], modes=["reconstruct"])
    sections = {"masks": MASKS, "reconstruction": {"examples": 4, "steps": 12, "batch_size": 2, "learning_rate": 0.01}}
    study.configure({"mixtral": study.folder / "mixtral"}, grid=grid, results="results/again", **sections)
    study.snakemake("--cores", "2", *(f"{run}/evaluation.json" for run in reconstructed))
    for run in reconstructed:
        layers = study.json(f"{run}/train.json")["reconstruction"]["layers"]
        assert all(layer["error_after"] < layer["error_before"] for layer in layers)

    methods = ["unstructured_wanda", "structured_obs"]
    grid = tiny_grid("part", TASK, methods, sparsities=[50], modes=["sparse_to_sparse"])
    sections = {"masks": MASKS, "training": TINY_STUDY["training"] | {"distillation": {"weight": 0.5}}}
    study.configure({"mixtral": study.folder / "mixtral"}, grid=grid, results="results/part", **sections)
    configuration = yaml.safe_load((study.folder / "study.yaml").read_text())
    configuration["models"]["part"] = {"source": f"pruned:{BASE}", "dtype": "bfloat16"}
    (study.folder / "study.yaml").write_text(yaml.safe_dump(configuration))
    assert study.planned()["prune"] == 1
    study.snakemake("--cores", "2", "--quiet", "all")
    assert {row["status"] for row in study.table("results/part/analysis/summary.csv")} == {"sound"}
    base, model = Checkpoint(study.folder / f"pruned/{BASE}"), Checkpoint(study.folder / "models/part")
    assert model.digest == base.digest
    run = f"part-{TASK}-structured_obs-sparsity50-sparse_to_sparse-seed0"
    # The model that was pruned first teaches, and the engines measure beside it, whatever was removed since.
    commands = study.commands(f"results/part/runs/{run}/engines.json")
    (command,) = [line for line in commands if "check_engines.py" in line]
    assert "--model_path models/mixtral/manifest.json " in command
    teacher = Checkpoint(study.folder / "models/mixtral").digest
    assert study.json(f"results/part/runs/{run}/train.json")["inputs"]["dense"] == teacher
    mask = read_mask(study.folder / f"masks/part/{TASK}/masks_sparsity50_unstructured_wanda.pt")
    assert mask.meta["base"] == model.digest
