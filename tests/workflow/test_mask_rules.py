"""Every kind of mask through the workflow: its place, its proof, and what makes it again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_cache import write
from project import TINY_STUDY, Study, succeed, tiny_grid
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
# The folder of a method's masks and of its pruned base.
PLACES = {
    "semistructured": "",
    "unstructured_wanda": f"{TASK}/",
    "unstructured_owl": f"{TASK}/",
    "unstructured_sparsegpt": f"{TASK}/",
    "semistructured_sparsegpt_on_web": "",
    "imported_magnitude": "",
}
BASES = ("unstructured_sparsegpt", "semistructured_sparsegpt_on_web", "imported_magnitude")


def prune_by_magnitude(source: Path, folder: Path) -> None:
    """Write a copy of a model in which the smaller half of each prunable layer is zero, and the rest has a new
    value."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    for layer in prunable_shapes(Checkpoint(folder)):
        weight = weights[f"{layer}.weight"].float()
        smallest = weight.abs().flatten().argsort(stable=True)[: weight.numel() // 2]
        weights[f"{layer}.weight"] = (1.25 * weight).flatten().index_fill(0, smallest, 0).view_as(weight).bfloat16()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a study with the masks of every kind, and some of their runs."""
    study = Study(tmp_path_factory.mktemp("masks"))
    prune_by_magnitude(tiny_models["llama"], study.folder / "sparse")
    write(study.folder / "web.jsonl", [{"text": f"Page {number} has {number * 17} words."} for number in range(40)])
    masks = {
        "calibration_examples": 4,
        "owl_m": 2.0,
        "sparsegpt_block": 16,
        "calibration": {"web": {"text": "web.jsonl", "examples": 8, "length": 12}},
        "imported": {"magnitude": {50: "path:sparse", 75: "path:sparse"}},
    }
    grid = {**tiny_grid("llama", TASK, list(PLACES)), "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, masks=masks, keep_merged=True, **TINY_STUDY)
    planned = study.planned("masks")
    jobs = {"compute_one_mask": 1, "compute_masks": 3, "prune": 2, "import_pruned": 1}
    assert planned == jobs | {"prepare_model": 1, "prepare_task": 1, "prepare_calibration": 1, "masks": 1}
    runs = [run(method) for method in BASES] + [run("imported_magnitude", "sparse_to_sparse")]
    study.snakemake("masks", *(f"{folder}/validation_report.json" for folder in runs))
    assert study.planned("masks") == {}
    return study


def run(method: str, mode: str = "no_finetune") -> str:
    """Return the folder of a run."""
    return f"results/runs/llama-{TASK}-{method}-sparsity50-{mode}-seed0"


def mask_of(method: str) -> str:
    return f"masks/llama/{PLACES[method]}masks_sparsity50_{method}.pt"


def base_of(study: Study, method: str) -> Checkpoint:
    return Checkpoint(study.folder / f"pruned/llama/{PLACES[method]}sparsity50_{method}")


def test_every_mask_is_in_its_place_and_says_what_it_looked_at(study):
    text = study.folder / "data/calibration_web.jsonl"
    for method, place in PLACES.items():
        meta = read_mask(study.folder / mask_of(method)).meta
        assert meta["reached"] == 0.5
        assert meta.get("task") == (TASK if place else None)
        examples = 8 if method.endswith("_on_web") else 4 if place else None
        assert meta.get("calibration_examples") == examples
        assert meta.get("text_sha256") == (sha256(text) if method.endswith("_on_web") else None)
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


def test_an_imported_checkpoint_has_the_mask_of_the_same_rule_and_is_trained_and_proved(study, tmp_path):
    model = study.folder / "models/llama"
    succeed("compute_masks.py", model_path=model, output_dir=tmp_path, sparsity=0.5, method="unstructured")
    ours = read_mask(tmp_path / "masks_sparsity50_unstructured.pt")
    imported = read_mask(study.folder / mask_of("imported_magnitude"))
    for layer in ours.shape:
        np.testing.assert_array_equal(imported.kept(layer), ours.kept(layer))
    base, sparse = base_of(study, "imported_magnitude"), Checkpoint(study.folder / "sparse")
    assert all((base.read(name) == sparse.read(name)).all() for name in sparse.tensors)
    report = study.json(f"{run('imported_magnitude', 'sparse_to_sparse')}/validation_report.json")
    assert (report["passed"], report["mask"]["inferred"]) == (True, True)


MADE_AGAIN = [
    ("- 50", "- 50\n  - 75", {"compute_one_mask": 3, "prune": 2, "import_pruned": 1}),
    ("calibration_examples: 4", "calibration_examples: 5", {"compute_masks": 2, "prune": 1}),
    ("calibration_examples: 4", "calibration_examples: 4\n  sequential: false", {"compute_masks": 1}),
    ("owl_m: 2.0", "owl_m: 3.0", {"compute_masks": 1}),
    ("sparsegpt_block: 16", "sparsegpt_block: 8", {"prune": 2}),
    ("      examples: 8", "      examples: 7", {"prune": 1}),
    ("- unstructured_owl", "- unstructured_owl\n  - random", {"compute_masks": 1}),
]


@pytest.mark.parametrize(("old", "new", "jobs"), MADE_AGAIN)
def test_a_setting_makes_the_masks_again_that_depend_on_it(study, old, new, jobs):
    with study.edited(old, new):
        assert study.planned("masks") == {**jobs, "masks": 1}


def test_a_checkpoint_with_2_4_zeros_is_imported_without_its_parent(tmp_path, tiny_models):
    study = Study(tmp_path)
    sparse = Path(shutil.copytree(tiny_models["llama"], tmp_path / "sparse"))
    weights = load_file(sparse / "model.safetensors")
    for layer in prunable_shapes(Checkpoint(sparse)):
        weight = weights[f"{layer}.weight"]
        smallest = weight.abs().view(len(weight), -1, 4).topk(2, largest=False).indices
        weight.view(len(weight), -1, 4).scatter_(2, smallest, 0)
    save_file(weights, sparse / "model.safetensors", metadata={"format": "pt"})
    grid = tiny_grid("llama", TASK, ["imported_own"]) | {"sparsities": [50], "modes": ["sparse_to_sparse"]}
    masks = {"imported": {"own": {50: "path:./sparse"}}, "imported_pattern": {"own": "2:4"}}
    study.configure({"llama": sparse}, grid=grid, masks=masks, **TINY_STUDY)
    study.snakemake("masks")
    mask = read_mask(study.folder / "masks/llama/masks_sparsity50_imported_own.pt")
    for layer in mask.shape:
        np.testing.assert_array_equal(mask.kept(layer), weights[f"{layer}.weight"].float().numpy() != 0)


def test_an_imported_checkpoint_that_changed_is_imported_again(study):
    weights = study.folder / "sparse/model.safetensors"
    before = weights.read_bytes()
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    planned = study.planned("masks")
    weights.write_bytes(before)
    assert planned == {"import_pruned": 1, "masks": 1}
