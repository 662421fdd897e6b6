"""The examples of docs/extending.md, added to a copy of the project, run through a small study."""

import copy
import csv
import re
import shutil
from pathlib import Path

import pytest
from pages import ROOT
from project import TINY_STUDY, Study
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
    """Apply a block of `-` and `+` lines. A `+` line without a `-` line before it is an import."""
    text = file.read_text()
    old = ""
    for line in difference.splitlines():
        if line.startswith("-"):
            old = line[1:]
            assert text.count(f"{old}\n") == 1, f"{file}: {old}"
        elif old:
            text = text.replace(old, line[1:])
            old = ""
        else:
            text = text.replace("\nfrom sparseft", f"\n{line[1:]}\nfrom sparseft", 1)
    file.write_text(text)


def test_each_axis_has_an_example_that_writes_files_and_edits_one_table():
    edited = [name for kind, name, _ in BLOCKS if kind == "diff"]
    assert edited == [
        f"lib/sparseft/{folder}/__init__.py" for folder in ("importances", "tasks", "architectures", "study/backends")
    ]
    assert sum(kind == "python" for kind, _, _ in BLOCKS) == 6


@pytest.mark.slow
def test_a_study_with_a_new_importance_task_architecture_and_backend_is_made_without_a_fault(extended, tmp_path):
    model = save_tiny("llama", tmp_path / "smollm3")  # its tokenizer
    config = SmolLM3Config(**copy.deepcopy(SIZES), no_rope_layer_interval=2)
    SmolLM3ForCausalLM(config).bfloat16().save_pretrained(model)
    study = Study(tmp_path / "study", root=extended)
    grid = {"models": ["tiny"], "tasks": ["parity"], "methods": ["unstructured_inputs", "structured"],
            "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}  # fmt: skip
    tasks = {"parity": {"train_examples": 24, "validation_examples": 12, "training": {"steps": 3}}}
    settings = {**TINY_STUDY, "tasks": tasks, "backend": "deterministic", "masks": {"calibration_examples": 4}}
    study.configure({"tiny": model}, grid=grid, **settings)
    study.snakemake("--cores", "2", "--quiet", "all")
    with open(study.folder / "results/analysis/summary.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 + 2 * 2  # the dense runs, and two of each method
    assert {row["faults"] for row in table} == {"0"}
    assert {row["backend"] for row in table if row["mode"] != "no_finetune"} == {"deterministic"}
    mask = study.folder / "masks/tiny/parity/masks_sparsity50_unstructured_inputs.pt"
    assert mask.exists()
