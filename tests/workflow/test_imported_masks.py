"""Checkpoints that another tool pruned, through the whole workflow, beside masks that the study computes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from killed import is_killed_after, products
from project import TINY_STUDY, Study, call_script, tiny_grid
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.masks.mask_file import read_mask

pytestmark = pytest.mark.slow
METHOD = "imported_magnitude"
MASK = f"masks/llama/masks_sparsity50_{METHOD}.pt"
BASE = f"pruned/llama/sparsity50_{METHOD}"
RUN = f"results/runs/llama-hellaswag_mini-{METHOD}-sparsity50-"


def prune_by_magnitude(source: Path, folder: Path) -> Path:
    """Write a copy of a model in which the smaller half of each prunable layer is zero, and the rest has a new value."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    for layer in prunable_shapes(Checkpoint(folder)):
        weight = weights[f"{layer}.weight"].float()
        smallest = weight.abs().flatten().argsort(stable=True)[: weight.numel() // 2]
        weights[f"{layer}.weight"] = (
            (1.25 * weight).flatten().index_fill(0, smallest, 0).reshape(weight.shape).bfloat16()
        )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study with an imported checkpoint and masks of its own."""
    study = Study(tmp_path_factory.mktemp("imported"))
    prune_by_magnitude(tiny_models["llama"], study.folder / "sparse")
    grid = {**tiny_grid("llama", "hellaswag_mini", ["unstructured", METHOD]), "sparsities": [0, 50]}
    imported = {"magnitude": {50: "path:sparse", 70: "path:unused"}}
    study.configure(
        {"llama": tiny_models["llama"]}, grid=grid, masks={"imported": imported}, keep_merged=True, **TINY_STUDY
    )
    assert study.planned()["import_pruned"] == 1
    study.snakemake()
    return study


def test_the_mask_is_that_of_the_same_rule_computed_here(study):
    ours = read_mask(study.folder / "masks/llama/masks_sparsity50_unstructured.pt")
    imported = read_mask(study.folder / MASK)
    for layer in ours.shape:
        np.testing.assert_array_equal(imported.kept(layer), ours.kept(layer))
    assert imported.meta["inferred"] is True
    assert imported.meta["source_digest"] == Checkpoint(study.folder / "sparse").digest
    assert imported.meta["original"] == Checkpoint(study.folder / "models/llama").digest
    assert imported.meta["base"] == Checkpoint(study.folder / BASE).digest


def test_every_run_of_the_imported_weights_is_trained_merged_proved_and_in_the_table(study):
    table = pd.read_csv(study.folder / "results/analysis/summary.csv")
    rows = table[table["method"] == METHOD]
    assert sorted(rows["mode"]) == ["no_finetune", "sparse_to_dense", "sparse_to_sparse"]
    assert (table["status"] == "sound").all()
    for mode in rows["mode"]:
        report = study.json(f"{RUN}{mode}-seed0/validation_report.json")
        assert (report["passed"], report["violations"], report["mask"]["inferred"]) == (True, 0, True)
    merged = Checkpoint(study.folder / f"{RUN}no_finetune-seed0/model_dir")
    sparse = Checkpoint(study.folder / "sparse")
    for name in sparse.tensors:
        np.testing.assert_array_equal(merged.read_float32(name), sparse.read_float32(name))


def test_nothing_runs_again_until_the_imported_checkpoint_changes(study):
    assert study.planned() == {}
    weights = study.folder / "sparse/model.safetensors"
    before = weights.read_bytes()
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    planned = study.planned()
    weights.write_bytes(before)
    assert (planned["import_pruned"], "compute_masks" in planned, "prepare_model" in planned) == (1, False, False)


def import_flags(study: Study, out: Path, source: Path | None = None) -> dict:
    return {"model_path": study.folder / "models/llama", "source": f"path:{source or study.folder / 'sparse'}",
            "name": "magnitude", "sparsity": 0.5, "output_dir": out / "masks", "pruned_dir": out / "pruned"}  # fmt: skip


def test_a_kill_at_any_moment_leaves_no_mask_without_its_base(study, tmp_path):
    states = []
    for renames in range(20):
        out = tmp_path / f"{renames}"
        is_killed = is_killed_after(renames, "import_pruned.py", import_flags(study, out))
        mask, base = out / "masks" / Path(MASK).name, out / "pruned" / Path(BASE).name
        states.append((base.exists(), mask.exists()))
        if mask.exists():
            assert read_mask(mask).meta["base"] == Checkpoint(base).digest
        if not is_killed:
            break
        code, said = call_script("import_pruned.py", **import_flags(study, out))
        assert code == 0, said
        assert products(out) == products(tmp_path / "0")
    assert {(False, False), (True, False), (True, True)} == set(states)
    assert products(out) == products(tmp_path / "0")


@pytest.mark.parametrize("damaged", ["source", "base", "model"])
@pytest.mark.parametrize("damage", ["cut in half", "emptied", "no file", "not a number"])
def test_damaged_weights_are_refused_in_one_line(study, tmp_path, damaged, damage):
    """The source is read by the import, and so is the model. What the import wrote is read by everything that follows."""
    folders = {"source": "sparse", "base": BASE, "model": "models/llama"}
    folder = shutil.copytree(study.folder / folders[damaged], tmp_path / damaged)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    if damage == "no file":
        file.unlink()
    elif damage == "not a number":
        weights = load_file(file)
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "cut in half" else 0])
    script, flags = "import_pruned.py", import_flags(study, tmp_path / "out", folder)
    if damaged == "model":
        flags = import_flags(study, tmp_path / "out") | {"model_path": folder}
    elif damaged == "base":
        run = study.folder / f"{RUN}no_finetune-seed0"
        script = "validate_sparsity.py"
        flags = {"run_id": run.name, "checkpoint": run / "model_dir", "mask_path": study.folder / MASK, "base": folder,
                 "output": tmp_path / "out/report.json"}  # fmt: skip
    code, said = call_script(script, **flags)
    assert (code, said.count("error: "), said.count("\n")) == (2, 1, 1), said
    assert str(folder) in said
    assert not products(tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("- 50", "- 60", "masks.imported.magnitude has no checkpoint at 60 %, only at 50, 70 %"),
        ("- 50", "- 70", "masks.imported.magnitude.70: unused/config.json: no such file"),
        ("- imported_magnitude", "- imported_wanda", "imported_wanda imports wanda, which masks.imported does not describe; describe it there, or choose one of magnitude"),
        ("backend: torch", "backend: cerebras", "imported_magnitude"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_refused_in_one_line_before_any_job(study, old, new, fault):
    before = (study.folder / "study.yaml").read_text()
    text = before + "backend: torch\n"
    assert old in text
    (study.folder / "study.yaml").write_text(text.replace(old, new))
    line = study.snakemake("-n", expect=2)
    (study.folder / "study.yaml").write_text(before)
    assert fault in line, line
    assert "Traceback" not in line
