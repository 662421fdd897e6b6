"""Methods that update weights, through the workflow: a pruned base per sparsity, from which the runs start."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from killed import is_killed_after, products
from project import TINY_STUDY, Study, call_script, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
METHODS = ["unstructured", "unstructured_sparsegpt", "semistructured_sparsegpt_on_web"]
BASES = {
    "unstructured_sparsegpt": "hellaswag_mini/sparsity50_unstructured_sparsegpt",
    "semistructured_sparsegpt_on_web": "sparsity50_semistructured_sparsegpt_on_web",
}
RUN = "llama-hellaswag_mini-unstructured_sparsegpt-sparsity50-{}-seed0"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    study = Study(tmp_path_factory.mktemp("pruned_bases"))
    documents = [f"Page {number} has {number * 17} words." for number in range(40)]
    (study.folder / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    text = {"text": "web.jsonl", "examples": 8, "length": 12}
    masks = {"calibration_examples": 4, "sparsegpt_block": 16, "calibration": {"web": text}}
    grid = {**tiny_grid("llama", "hellaswag_mini", METHODS), "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, masks=masks, keep_merged=True, **TINY_STUDY)
    study.snakemake()
    return study


def test_the_study_has_no_fault_and_every_run_is_proved(study):
    with open(study.folder / "results/analysis/summary.csv") as file:
        summary = list(csv.DictReader(file))
    assert len(summary) == 2 + 2 * len(METHODS)
    assert {row["status"] for row in summary} == {"sound"}
    memo = (study.folder / "results/analysis/correctness_memo.md").read_text()
    assert "8 of 8 models passed. The chain of hashes holds in 8 of 8 runs" in memo
    assert study.planned() == {}


def test_the_runs_start_from_the_pruned_base_and_name_it(study):
    original = Checkpoint(study.folder / "models/llama").digest
    for method, place in BASES.items():
        base = Checkpoint(study.folder / "pruned/llama" / place)
        mask = read_mask(study.folder / "masks/llama" / Path(place).parent / f"masks_sparsity50_{method}.pt")
        assert (mask.meta["base"], mask.meta["original"]) == (base.digest, original)
        for mode in ("no_finetune", "sparse_to_sparse"):
            run = f"results/runs/llama-hellaswag_mini-{method}-sparsity50-{mode}-seed0"
            assert study.json(f"{run}/validation_report.json")["inputs"]["base"] == base.digest
            assert study.json(f"{run}/merge.json")["inputs"]["model"] == base.digest
        # Without a training, the merged model has the weights of the pruned base.
        run = study.folder / f"results/runs/llama-hellaswag_mini-{method}-sparsity50-no_finetune-seed0"
        assert sha256(run / "model_dir/model.safetensors") == sha256(base.folder / "model.safetensors")


def test_each_sparsity_has_a_job_of_its_own_and_only_its_settings_matter(study):
    text = (study.folder / "study.yaml").read_text()
    changes = {
        "- 50": ("- 50\n  - 75", {"compute_added_mask": 1, "prune_on_task": 1, "prune_on_text": 1}),
        "sparsegpt_block: 16": ("sparsegpt_block: 8", {"prune_on_task": 1, "prune_on_text": 1}),
        "calibration_examples: 4": ("calibration_examples: 5", {"prune_on_task": 1}),
        "calibration_examples: 4\n": ("calibration_examples: 4\n  sequential: false\n", {}),
    }
    for old, (new, jobs) in changes.items():
        assert text.count(old) == 1
        (study.folder / "study.yaml").write_text(text.replace(old, new))
        assert study.planned("masks") == ({**jobs, "masks": 1} if jobs else {})
    (study.folder / "study.yaml").write_text(text)


def prune_flags(study: Study, out: Path) -> dict:
    data = study.folder / "data/hellaswag_mini"
    return {"model_path": study.folder / "models/llama", "output_dir": out / "masks", "pruned_dir": out / "pruned",
            "sparsity": 0.5, "method": "unstructured_sparsegpt", "task": "hellaswag_mini", "data_dir": data,
            "calibration_examples": 4, "sparsegpt_block": 16, "threads": 1}  # fmt: skip


def test_a_kill_at_any_moment_leaves_no_mask_without_its_base(study, tmp_path):
    states = []
    for renames in range(20):
        out = tmp_path / f"{renames}"
        is_killed = is_killed_after(renames, "compute_masks.py", prune_flags(study, out))
        mask = out / "masks/masks_sparsity50_unstructured_sparsegpt.pt"
        base = out / "pruned/sparsity50_unstructured_sparsegpt"
        states.append((base.exists(), mask.exists()))
        if mask.exists():
            assert read_mask(mask).meta["base"] == Checkpoint(base).digest
        if not is_killed:
            break
        code, said = call_script("compute_masks.py", **prune_flags(study, out))
        assert code == 0, said
        assert products(out) == products(tmp_path / "0")
    assert {(False, False), (True, False), (True, True)} == set(states)
    assert products(out) == products(tmp_path / "0")


@pytest.mark.parametrize(("damage", "script"), [
    ("cut", "merge.py"), ("cut", "train.py"), ("cut", "validate_sparsity.py"), ("flipped", "validate_sparsity.py"),
    ("another", "validate_sparsity.py"), ("another mask", "merge.py"), ("the model", "merge.py"),
])  # fmt: skip
def test_damaged_updated_weights_are_refused_in_one_line(study, tmp_path, damage, script):
    place = study.folder / "pruned/llama" / BASES["unstructured_sparsegpt"]
    base = shutil.copytree(place, tmp_path / "base")
    other = study.folder / "pruned/llama" / BASES["semistructured_sparsegpt_on_web"]
    mask = study.folder / "masks/llama/hellaswag_mini/masks_sparsity50_unstructured_sparsegpt.pt"
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "another":
        shutil.copyfile(other / "model.safetensors", file)
    else:
        base = other if damage == "another mask" else study.folder / "models/llama"
    run, out = study.folder / "results/runs" / RUN.format("no_finetune"), tmp_path / "out"
    trained = RUN.format("sparse_to_sparse")
    flags = {
        "merge.py": {"run_id": run.name, "model_path": base, "mask_path": mask, "output_dir": out / "model", "report": out / "merge.json"},
        "train.py": {"run_id": trained, "model_path": base, "mask_path": mask, "data_dir": study.folder / "data/hellaswag_mini", "output_dir": out},
        "validate_sparsity.py": {"run_id": run.name, "checkpoint": run / "model_dir", "mask_path": mask, "base": base, "output": out / "report.json"},
    }[script]  # fmt: skip
    code, said = call_script(script, **flags)
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("error: ")
    assert not list(out.rglob("*.json"))


def test_a_method_that_updates_weights_needs_a_place_for_them(study, tmp_path):
    flags = prune_flags(study, tmp_path)
    for change in ({"pruned_dir": None}, {"format": "safetensors"}):
        changed = {name: value for name, value in (flags | change).items() if value is not None}
        code, said = call_script("compute_masks.py", **changed)
        assert (code, said) == (
            2, "error: unstructured_sparsegpt updates weights; give --pruned_dir for them, and leave --format out\n"
        )  # fmt: skip
