"""Reconstruct the tiny LLaMA through the workflow, and train from its adapter."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killed import is_killed_after, products
from project import ROOT, TINY_STUDY, Study, call_script, tiny_grid
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
RUN = "results/runs/llama-hellaswag_mini-unstructured-sparsity50-{}-seed0"
MODES = ["no_finetune", "sparse_to_dense", "sparse_to_sparse", "reconstruct", "reconstruct_to_sparse"]
MASKS = {"calibration": {"web": {"text": "web.jsonl", "examples": 2, "length": 24}}}
RECONSTRUCTION = {"calibration": "web", "examples": 6, "steps": 12, "batch_size": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study in all modes. The mode reconstruct is in it because another one starts from it."""
    study = Study(tmp_path_factory.mktemp("reconstruction"))
    documents = [f"Page {number} has {number * 17} words." for number in range(40)]
    (study.folder / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    modes = ["sparse_to_dense", "sparse_to_sparse", "reconstruct_to_sparse"]
    grid = {**tiny_grid("llama", "hellaswag_mini", ["unstructured"]), "sparsities": [0, 50], "modes": modes}
    models = {"llama": tiny_models["llama"]}
    study.configure(models, grid=grid, **TINY_STUDY, masks=MASKS, reconstruction=RECONSTRUCTION)
    planned = study.planned()
    assert (planned["reconstruct_adapter"], planned["train_adapter"], planned["prepare_calibration"]) == (1, 4, 1)
    study.snakemake("--cores", "2")
    assert study.planned() == {}
    return study


def test_every_mode_is_in_the_tables_without_a_fault(study):
    with open(study.folder / "results/analysis/summary.csv", newline="") as file:
        rows = {(row["method"], row["mode"]): row for row in csv.DictReader(file)}
    assert {mode for method, mode in rows if method == "unstructured"} == set(MODES)
    for row in rows.values():
        assert row["status"] == "sound"
    reconstructed = rows["unstructured", "reconstruct"]
    assert 0 < float(reconstructed["reconstruction_error"]) < 1
    assert reconstructed["train_loss"] == ""
    assert rows["unstructured", "reconstruct_to_sparse"]["train_loss"] != ""
    with open(study.folder / "results/analysis/comparisons.csv", newline="") as file:
        pairs = {(row["mode"], row["against_method"], row["against_mode"]) for row in csv.DictReader(file)}
    assert pairs >= {
        ("reconstruct", "unstructured", "sparse_to_sparse"),
        ("reconstruct", "unstructured", "no_finetune"),
        ("reconstruct", "dense", "no_finetune"),
        ("reconstruct_to_sparse", "dense", "sparse_to_dense"),
    }


def test_the_records_say_what_was_reconstructed_and_what_started_from_it(study):
    record, second = (study.json(f"{RUN.format(mode)}/train.json") for mode in MODES[3:])
    part = record["reconstruction"]
    text = sha256(study.folder / "data/calibration_web.jsonl")
    assert (part["examples"], part["length"], part["text_sha256"], part["tokens"]) == (6, 24, text, 144)
    for layer in part["layers"]:
        assert layer["error_after"] < layer["error_before"]
        assert len(layer["losses"]) == record["steps"] == 12
    assert second["inputs"]["initial_adapter"] == record["outputs"]["adapter"] != second["outputs"]["adapter"]
    assert study.json(f"{RUN.format('reconstruct')}/merge.json")["as_trained"]
    for mode in MODES[3:]:
        before, after = (study.json(f"{RUN.format(mode)}/{name}.json") for name in ("before_merge", "evaluation"))
        assert before["log_likelihoods"] == after["log_likelihoods"]


def test_an_adapter_that_another_run_did_not_start_from_is_a_fault(study, tmp_path):
    """The run that it starts from was made again with other settings, and the analysis sees it."""
    copy = Study(Path(shutil.copytree(study.folder, tmp_path / "copy")))
    text = (copy.folder / "study.yaml").read_text()
    (copy.folder / "study.yaml").write_text(text.replace("steps: 12", "steps: 5"))
    own = [f"{RUN.format('reconstruct')}/{name}.json" for name in ("train", "before_merge", "merge")]
    assert copy.planned(f"{RUN.format('reconstruct_to_sparse')}/train.json") == {
        "reconstruct_adapter": 1,
        "train_adapter": 1,
    }
    copy.snakemake("--cores", "2", *own, f"{RUN.format('reconstruct')}/evaluation.json")
    code = copy.script("analyze_results.py", "--results_dir", "results/runs", "--output_dir", "again")
    assert code.returncode == 0, code.stderr
    memo = (copy.folder / "again/correctness_memo.md").read_text()
    assert "adapter of llama-hellaswag_mini-unstructured-sparsity50-reconstruct-seed0: " in memo


def script(study: Study, name: str, mode: str, **changes: object) -> str:
    """Call a training script by hand for a run of the study, with changed flags; return its one line of refusal."""
    flags = {
        "run_id": Path(RUN.format(mode)).name,
        "model_path": study.folder / "models/llama",
        "mask_path": study.folder / "masks/llama/masks_sparsity50_unstructured.pt",
        "data_dir": study.folder / "data/hellaswag_mini",
        "output_dir": study.folder / "by_hand",
        "lora_r": 4,
    }
    code, said = call_script(name, **flags | changes)
    assert code == 2
    assert said.count("error: ") == 1
    assert not (study.folder / "by_hand/adapter").exists()
    return said


def reconstruct_flags(study: Study, out: Path) -> dict:
    return {"run_id": Path(RUN.format("reconstruct")).name, "model_path": study.folder / "models/llama",
            "mask_path": study.folder / "masks/llama/masks_sparsity50_unstructured.pt",
            "data_dir": study.folder / "data/hellaswag_mini", "text": study.folder / "web.jsonl", "calibration_examples": 4,
            "calibration_length": 24, "steps": 3, "batch_size": 2, "micro_batch_size": 2, "lora_r": 4, "output_dir": out}  # fmt: skip


def test_a_kill_at_any_moment_is_continued_to_the_same_bits(study, tmp_path):
    """The adapter and its state are left whole or absent. The reconstruction continues after the last layer of the state."""
    resumed, states = [], []
    for renames in range(20):
        out = tmp_path / str(renames)
        is_killed = is_killed_after(renames, "reconstruct.py", reconstruct_flags(study, out))
        states.append(tuple((out / name).exists() for name in ("state.pt", "adapter", "train.json")))
        if not is_killed:
            break
        code, said = call_script("reconstruct.py", **reconstruct_flags(study, out))
        assert code == 0, said
        resumed.append(json.loads((out / "train.json").read_text())["reconstruction"]["resumed_after_layers"])
        files = {name: digest for name, digest in products(out).items() if name != "train.json"}
        assert files == {name: digest for name, digest in products(tmp_path / "0").items() if name != "train.json"}
    # The state is renamed after each of two layers. The adapter is renamed with all its files, and train.json after it.
    assert states == [(False,) * 3, *[(True, False, False)] * 3, (True, True, False), (False, True, True)]
    assert resumed == [[], [1], [2], [2], [2]]
    assert adapter_digest(out / "adapter") == adapter_digest(tmp_path / "0/adapter")


def test_the_record_says_what_a_reconstruction_by_hand_did(study, tmp_path):
    """All examples of a step are in one forward pass, and nothing is computed twice, whatever the flags say."""
    flags = reconstruct_flags(study, tmp_path)
    code, said = call_script(
        "reconstruct.py", **flags | {"micro_batch_size": 1, "gradient_checkpointing": True, "cache_weights": True}
    )
    assert code == 0, said
    record = json.loads((tmp_path / "train.json").read_text())
    assert (record["batch_size"], record["micro_batch_size"]) == (2, 2)
    assert (record["gradient_checkpointing"], record["cache_weights"]) == (False, False)
    refused = script(study, "reconstruct.py", "reconstruct", calibration_seed=-1)
    assert "calibration_seed: Input should be greater than or equal to 0" in refused


def test_two_reconstructions_of_one_run_wait_for_each_other(study, tmp_path):
    words = [
        word for name, value in reconstruct_flags(study, tmp_path / "out").items() for word in (f"--{name}", str(value))
    ]
    command = [sys.executable, ROOT / "workflow/scripts/reconstruct.py", *words]
    both = [subprocess.Popen(command, env=study.environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("waiting for its end" in text for text in said) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter", "train.json"}


def test_a_script_refuses_what_does_not_fit_its_mode(study, tiny_models):
    initial = study.folder / RUN.format("reconstruct") / "adapter"
    other = study.folder / RUN.format("sparse_to_sparse") / "adapter"
    assert "is not trained by this program; choose a run in mode reconstruct" in script(
        study, "reconstruct.py", MODES[2]
    )
    assert "is not trained by this program" in script(study, "train.py", "reconstruct")
    mode = "reconstruct_to_sparse"
    assert "starts from the adapter of reconstruct; give it with --initial_adapter" in script(study, "train.py", mode)
    assert "starts from a new adapter" in script(study, "train.py", MODES[2], initial_adapter=initial)
    assert "its run_id is" in script(study, "train.py", mode, initial_adapter=other)
    assert "its r is 4, not 8" in script(study, "train.py", mode, initial_adapter=initial, lora_r=8)
    assert "not the model that was pruned" in script(
        study, "reconstruct.py", "reconstruct", dense_path=tiny_models["mistral"]
    )
    few = {"text": study.folder / "web.jsonl", "calibration_examples": 1000, "calibration_length": 24}
    assert "tokens are fewer than" in script(study, "reconstruct.py", "reconstruct", **few)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"reconstruction": {"calibration": "pile"}}, "error: configuration: reconstruction.calibration: masks.calibration describes no text 'pile'"),
        ({"reconstruction": {"examples": 25}}, "error: reconstruction.examples 25: hellaswag_mini has only 24 training rows"),
        ({"backend": "cerebras"}, "error: configuration: mode reconstruct: the backend cerebras does not reconstruct layers"),
        ({"training": {"shard_model": True, "batch_size": 4, "micro_batch_size": 2}, "resources": {"processes": 2}}, "training.shard_model: reconstruct needs the whole model in one process"),
        ({"masks": {"calibration": {"web": {"text": "web.jsonl", "length": 513}}}}, "error: masks.calibration.web.length: windows of 513 tokens, but llama takes 512"),
    ],
)  # fmt: skip
def test_what_cannot_be_reconstructed_is_refused_before_any_job(study, tiny_models, changes, line):
    text = (study.folder / "study.yaml").read_text()
    grid = {**tiny_grid("llama", "hellaswag_mini", ["unstructured"]), "modes": ["reconstruct"]}
    sections = {**TINY_STUDY, "masks": MASKS, "reconstruction": RECONSTRUCTION, "grid": grid} | changes
    study.configure({"llama": tiny_models["llama"]}, **sections)
    said = study.snakemake("--dry-run", expect=2)
    (study.folder / "study.yaml").write_text(text)
    assert line in said
    assert "Traceback" not in said
