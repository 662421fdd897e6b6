"""Every kind of mask through the workflow: its place, its proof, and what makes it again."""

import shutil
from pathlib import Path

import pytest
from project import Study, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256
from tiny_models import edited

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
# The folder of a method's masks and of its pruned base.
PLACES = {
    "semistructured": "",
    "unstructured_wanda": f"{TASK}/",
    "unstructured_owl": f"{TASK}/",
    "unstructured_sparsegpt": f"{TASK}/",
    "imported_half": "",
}
BASES = ("unstructured_sparsegpt", "imported_half")


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a study with the masks of every kind, and some of their runs."""
    study = Study(tmp_path_factory.mktemp("masks"))
    with edited(Path(shutil.copytree(tiny_models["llama"], study.folder / "sparse"))) as weights:
        for layer in prunable_shapes(Checkpoint(tiny_models["llama"])):
            weights[f"{layer}.weight"] *= 2
            weights[f"{layer}.weight"].view(-1)[::2] = 0
    masks = {
        "calibration_examples": 4,
        "owl_m": 2.0,
        "sparsegpt_block": 16,
        "imported": {"half": {50: "path:sparse", 75: "path:sparse"}},
    }
    grid = tiny_grid("llama", TASK, list(PLACES), sparsities=[0, 50], modes=["sparse_to_sparse"])
    study.configure({"llama": tiny_models["llama"]}, grid=grid, masks=masks, keep_merged=True)
    planned = study.planned("masks")
    jobs = {"compute_one_mask": 1, "compute_masks": 3, "prune": 1, "import_pruned": 1}
    assert planned == jobs | {"prepare_model": 1, "prepare_task": 1, "masks": 1}
    runs = [run(method) for method in BASES] + [run("imported_half", "sparse_to_sparse")]
    study.snakemake("masks", *(f"{folder}/validation_report.json" for folder in runs))
    assert study.planned("masks") == {}
    return study


def run(method: str, mode: str = "no_finetune") -> str:
    return f"results/runs/llama-{TASK}-{method}-sparsity50-{mode}-seed0"


def mask_of(method: str) -> str:
    return f"masks/llama/{PLACES[method]}masks_sparsity50_{method}.pt"


def base_of(study: Study, method: str) -> Checkpoint:
    return Checkpoint(study.folder / f"pruned/llama/{PLACES[method]}sparsity50_{method}")


def test_every_mask_is_in_its_place_and_says_what_it_looked_at(study):
    for method, place in PLACES.items():
        meta = read_mask(study.folder / mask_of(method)).meta
        assert meta["reached"] == 0.5
        assert meta.get("task") == (TASK if place else None)
        assert meta.get("calibration_examples") == (4 if place else None)
    report = study.json(f"masks/llama/{TASK}/report_unstructured_wanda.json")
    assert [part["asked_percent"] for part in report["sparsities"]] == [0, 50]


@pytest.mark.parametrize("method", BASES)
def test_the_runs_start_from_the_pruned_base_and_name_it(study, method):
    base, meta = base_of(study, method), read_mask(study.folder / mask_of(method)).meta
    assert (meta["base"], meta["original"]) == (base.digest, Checkpoint(study.folder / "models/llama").digest)
    report = study.json(f"{run(method)}/validation_report.json")
    assert (report["passed"], report["violations"], report["inputs"]["base"]) == (True, 0, base.digest)
    assert study.json(f"{run(method)}/merge.json")["inputs"]["model"] == base.digest
    # Without a training, the merged model has the weights of the pruned base.
    assert sha256(study.folder / run(method) / "model_dir/model.safetensors") == sha256(base.files[0])


def test_an_imported_checkpoint_is_the_pruned_base_and_is_trained_and_proved(study):
    base, sparse = base_of(study, "imported_half"), Checkpoint(study.folder / "sparse")
    assert all((base.read(name) == sparse.read(name)).all() for name in sparse.tensors)
    report = study.json(f"{run('imported_half', 'sparse_to_sparse')}/validation_report.json")
    assert (report["passed"], report["mask"]["inferred"]) == (True, True)


MADE_AGAIN = [
    ("- 50", "- 50\n  - 75", {"compute_one_mask": 3, "prune": 1, "import_pruned": 1}),
    ("calibration_examples: 4", "calibration_examples: 5", {"compute_masks": 2, "prune": 1}),
    ("owl_m: 2.0", "owl_m: 3.0", {"compute_masks": 1}),
    ("sparsegpt_block: 16", "sparsegpt_block: 8", {"prune": 1}),
]


@pytest.mark.parametrize(("old", "new", "jobs"), MADE_AGAIN)
def test_a_setting_makes_the_masks_again_that_depend_on_it(study, old, new, jobs):
    with study.edited(old, new):
        assert study.planned("masks") == {**jobs, "masks": 1}


def test_an_import_of_the_model_itself_has_no_source_and_names_its_pattern(tmp_path, tiny_models):
    model = Path(shutil.copytree(tiny_models["llama"], tmp_path / "sparse"))
    masks = {"imported": {"own": {50: "path:./sparse"}}, "imported_pattern": {"own": "2:4"}}
    grid = tiny_grid("llama", TASK, ["imported_own"], sparsities=[50])
    study = Study(tmp_path).configure({"llama": model}, grid=grid, masks=masks)
    (command,) = [line for line in study.commands("masks") if "import_pruned.py" in line]
    assert "--pattern 2:4" in command and "--source" not in command


def test_an_imported_checkpoint_that_changed_is_imported_again(study, tmp_path):
    copy = Study(Path(shutil.copytree(study.folder, tmp_path / "copy")))
    with edited(copy.folder / "sparse") as weights:
        weights["model.norm.weight"] *= 2
    assert copy.planned("masks") == {"import_pruned": 1, "masks": 1}
