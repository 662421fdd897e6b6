"""Reconstruct the tiny LLaMA through the workflow, and train from its adapter."""

import shutil
from pathlib import Path

import pytest
from hub_cache import write
from project import TINY_STUDY, Study, call_script, tiny_grid
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
RUN = "results/runs/llama-hellaswag_mini-unstructured-sparsity50-{}-seed0"
NEW, FIRST, SECOND, FULL = "sparse_to_sparse", "reconstruct", "reconstruct_to_sparse", "full_sparse_to_sparse"
MASKS = {"calibration": {"web": {"text": "web.jsonl", "examples": 2, "length": 24}}}
RECONSTRUCTION = {"calibration": "web", "examples": 6, "steps": 12, "batch_size": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study in all modes. The mode reconstruct is in it because another one starts from it."""
    study = Study(tmp_path_factory.mktemp("reconstruction"))
    write(study.folder / "web.jsonl", [{"text": f"Page {number} has {number * 17} words."} for number in range(40)])
    grid = {**tiny_grid("llama", "hellaswag_mini", ["unstructured"]), "sparsities": [0, 50], "modes": [NEW, SECOND]}
    models = {"llama": tiny_models["llama"]}
    study.configure(models, grid=grid, **TINY_STUDY, masks=MASKS, reconstruction=RECONSTRUCTION)
    planned = study.planned()
    assert (planned["reconstruct_adapter"], planned["train_adapter"], planned["prepare_calibration"]) == (1, 3, 1)
    study.snakemake("--cores", "2")
    assert study.planned() == {}
    return study


def test_every_mode_is_in_the_tables_without_a_fault(study):
    rows = {(row["method"], row["mode"]): row for row in study.table()}
    assert {mode for method, mode in rows if method == "unstructured"} == {"no_finetune", NEW, FIRST, SECOND}
    for row in rows.values():
        assert row["status"] == "sound"
    reconstructed = rows["unstructured", FIRST]
    assert 0 < float(reconstructed["reconstruction_error"]) < 1
    assert reconstructed["train_loss"] == ""
    assert rows["unstructured", SECOND]["train_loss"] != ""


def test_only_the_files_of_a_run_are_kept_and_no_merged_model(study):
    for folder in (study.folder / "results/runs").iterdir():
        trained = {"train.json", "adapter", "before_merge.json"} if "no_finetune" not in folder.name else set()
        names = {path.name for path in folder.iterdir()}
        assert names == {"merge.json", "validation_report.json", "evaluation.json"} | trained


def test_the_records_say_what_was_reconstructed_and_what_started_from_it(study):
    record, second = (study.json(f"{RUN.format(mode)}/train.json") for mode in (FIRST, SECOND))
    part = record["reconstruction"]
    text = sha256(study.folder / "data/calibration_web.jsonl")
    assert (part["examples"], part["length"], part["text_sha256"], part["tokens"]) == (6, 24, text, 144)
    for layer in part["layers"]:
        assert layer["error_after"] < layer["error_before"]
        assert len(layer["losses"]) == record["steps"] == 12
    assert second["inputs"]["initial_adapter"] == record["outputs"]["adapter"] != second["outputs"]["adapter"]
    assert study.json(f"{RUN.format(FIRST)}/merge.json")["as_trained"]
    for mode in (FIRST, SECOND):
        before, after = (study.json(f"{RUN.format(mode)}/{name}.json") for name in ("before_merge", "evaluation"))
        assert before["log_likelihoods"] == after["log_likelihoods"]


def base_flags(study: Study, mode: str) -> dict:
    """Return the flags of a training script for a run of the study."""
    mask = study.folder / "masks/llama/masks_sparsity50_unstructured.pt"
    return {"run_id": Path(RUN.format(mode)).name, "model_path": study.folder / "models/llama", "mask_path": mask,
            "data_dir": study.folder / "data/hellaswag_mini"}  # fmt: skip


FEW = {"text": "web.jsonl", "calibration_examples": 1000, "calibration_length": 24}
INITIAL = {"initial_adapter": f"{RUN.format(FIRST)}/adapter"}
OTHER = {"initial_adapter": f"{RUN.format(NEW)}/adapter"}


@pytest.mark.parametrize(
    ("name", "mode", "changes", "line"),
    [
        ("reconstruct.py", NEW, {}, "is not trained by this program; choose a run in mode reconstruct"),
        ("train.py", FIRST, {}, "is not trained by this program"),
        ("train.py", SECOND, {}, "starts from llama-hellaswag_mini-unstructured-sparsity50-reconstruct-seed0; give"),
        ("train.py", NEW, INITIAL, "starts from the pruned model"),
        ("train.py", FULL, INITIAL | {"lora_r": None}, "starts from the pruned model"),
        ("train.py", FULL, {}, "--lora_r: a training in mode full_sparse_to_sparse has none; leave it out"),
        ("train.py", NEW, {"full_learning_rate": 1e-4}, "--full_learning_rate: a training in mode sparse_to_sparse"),
        ("train.py", SECOND, OTHER, "its run_id is"),
        ("train.py", SECOND, INITIAL | {"lora_r": 8}, "its r is 4, not 8"),
        ("reconstruct.py", FIRST, {"dense_path": "mistral"}, "not the model that was pruned"),
        ("train.py", NEW, {"dense_path": "retokenised", "distillation.weight": 1}, "a teacher with another tokenizer"),
        ("reconstruct.py", FIRST, FEW, "tokens are fewer than"),
    ],
)
def test_a_script_refuses_what_does_not_fit_its_mode(
    study, tiny_models, tmp_path, monkeypatch, name, mode, changes, line
):
    monkeypatch.chdir(study.folder)
    if "dense_path" in changes:
        other = shutil.copytree(tiny_models["mistral"], tmp_path / "mistral")
        if changes["dense_path"] == "retokenised":
            (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
        changes = changes | {"dense_path": other}
    flags = {**base_flags(study, mode), "lora_r": 4, "output_dir": "by_hand", **changes}
    code, said = call_script(name, **{flag: value for flag, value in flags.items() if value is not None})
    assert (code, said.count("error: ")) == (2, 1)
    assert line in said
    assert not Path("by_hand/adapter").exists()
