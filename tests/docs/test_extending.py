"""The examples of docs/extending.md, added to a copy of the project, run through a small study."""

import copy
import csv
import re
import shutil
from pathlib import Path

import pytest
from pages import ROOT
from project import TINY_STUDY, Study
from sparseft.masks.mask_file import read_mask
from tiny_models import SIZES, save_tiny
from transformers import SmolLM3Config, SmolLM3ForCausalLM

BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs/extending.md").read_text())
FOLDERS = ("lib", "rules", "workflow", "config", "profiles", "envs")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Return a copy of the project with all examples of the page."""
    root = tmp_path_factory.mktemp("extended")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "Snakefile", root)
    for kind, name, content in BLOCKS:
        if kind == "diff":
            change(root / name, content)
        else:
            assert not (root / name).exists(), name
            (root / name).write_text(content)
    return root


def change(file: Path, difference: str) -> None:
    """Apply a block of `-` and `+` lines. `+` lines without a `-` line before them are imports."""
    text = file.read_text()
    for removed, added in re.findall(r"((?:^-.*\n)*)((?:^\+.*\n)+)", difference, re.MULTILINE):
        old, new = (re.sub("^.", "", lines, flags=re.MULTILINE) for lines in (removed, added))
        if old:
            assert text.count(f"\n{old}") == 1, f"{file}: {old}"
            text = text.replace(f"\n{old}", f"\n{new}")
        else:
            text = text.replace("\nfrom sparseft", f"\n{new}from sparseft", 1)
    file.write_text(text)


def test_each_axis_has_an_example_that_writes_files_and_edits_one_table():
    edited = [name.removeprefix("lib/sparseft/") for kind, name, _ in BLOCKS if kind == "diff"]
    tables = ("importances", "patterns", "tasks", "architectures", "study/backends")
    column = ["training/job.py", "records/training_record.py"]
    assert edited == [f"{folder}/__init__.py" for folder in tables] + ["modes.py", *column]
    assert sum(kind == "python" for kind, _, _ in BLOCKS) == 7


TASKS = {"parity": {"train_examples": 24, "validation_examples": 12, "training": {"steps": 3}}}
SETTINGS = {**TINY_STUDY, "tasks": TASKS, "masks": {"calibration_examples": 4}}


def made(study: Study, model: Path, grid: dict, **settings: object) -> list[dict[str, str]]:
    """Make a study of one model on the task of the page; returns summary.csv, whose runs are sound."""
    grid = {"models": ["tiny"], "tasks": ["parity"], **grid}
    study.configure({"tiny": model}, grid=grid, **SETTINGS, **settings)
    study.snakemake("--cores", "2", "--quiet", "all")
    with open(study.folder / "results/analysis/summary.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["status"] for row in table} == {"sound"}
    return table


@pytest.mark.slow
def test_a_study_with_a_new_importance_pattern_task_architecture_and_backend_is_made_without_a_fault(
    extended, tmp_path
):
    model = save_tiny("llama", tmp_path / "smollm3")  # its tokenizer
    config = SmolLM3Config(**copy.deepcopy(SIZES), no_rope_layer_interval=2)
    SmolLM3ForCausalLM(config).bfloat16().save_pretrained(model)
    study = Study(tmp_path / "study", root=extended)
    grid = {
        "methods": ["unstructured_peaks", "columns", "structured"],
        "sparsities": [0, 50],
        "modes": ["sparse_to_sparse"],
    }
    table = made(study, model, grid, backend="deterministic")
    assert len(table) == 2 + 3 * 2  # the dense runs, and two of each method
    trained = [row for row in table if row["mode"] != "no_finetune"]
    with open(study.folder / "results/analysis/settings.csv", newline="") as file:
        assert {row["training.backend"] for row in csv.DictReader(file)} == {"", "deterministic"}
    assert {bool(row["adapter_bytes"]) for row in trained} == {True}
    assert (study.folder / "masks/tiny/parity/masks_sparsity50_unstructured_peaks.pt").exists()


@pytest.mark.slow
def test_a_new_mode_continues_another_one_under_a_new_pattern_that_is_pruned_in_sequence(
    extended, tmp_path, tiny_models
):
    study = Study(tmp_path / "study", root=extended)
    grid = {"methods": ["columns_peaks"], "sparsities": [50], "modes": ["dense_to_sparse"]}
    table = made(study, tiny_models["llama"], grid)
    assert {row["mode"] for row in table} == {"no_finetune", "sparse_to_dense", "dense_to_sparse"}
    mask = read_mask(study.folder / "masks/tiny/parity/masks_sparsity50_columns_peaks.pt")
    assert mask.meta["sequential"]
    for layer, (_, cols) in mask.shape.items():
        kept = mask.kept(layer)
        assert (kept == kept[0]).all()
        assert kept[0].sum() == cols // 2
