"""The whole workflow with the real cerebras-pytorch on its CPU backend, and what its front end says of shared programs.

Snakemake and all that is not training run in the default environment; its python is .venv/bin/python, or SPARSEFT_PYTHON.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT, TINY_STUDY, Study, run_script, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.study.config import Config
from sparseft.study.grid import Run
from sparseft.study.mask_settings import Masks
from sparseft.study.section import parse_section
from sparseft.study.targets import program_name, training_program
from sparseft.tasks import BY_NAME

PYTHON = os.environ.get("SPARSEFT_PYTHON", str(ROOT / ".venv/bin/python"))
CELLS = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [0, 50]}


@pytest.mark.skipif(not Path(PYTHON).exists(), reason="Snakemake's environment is not there: make .venv/installed")
def test_the_whole_workflow_from_masks_to_tables(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces", python=PYTHON)
    settings = {"target": "CPU", "python": sys.executable, "sequence_length": 128}
    study.configure({"llama": tiny_models["llama"]}, grid=CELLS, backend="cerebras", cerebras=settings, **TINY_STUDY)
    study.snakemake("results/analysis/summary.csv", "--cores", "2")
    with open(study.folder / "results/analysis/summary.csv") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 5
    for row in rows.values():
        assert (row["validated"], row["violations"], row["layers_checked"]) == ("True", "0", "14")
    trained = {name: row for name, row in rows.items() if row["mode"] != "no_finetune"}
    assert len(trained) == 3
    for name, row in trained.items():
        assert (row["backend"], row["device"]) == ("cerebras", "CSX software backend on CPU")
        record = study.json(f"results/runs/{name}/train.json")
        before = study.json(f"results/runs/{name}/before_merge.json")
        assert record["eval_loss"] == pytest.approx(before["eval_loss"], rel=2e-3)  # two transformers, bf16
        assert record["compile_hash"] is None
        if row["mode"] == "sparse_to_sparse":
            assert abs(float(row["train_merge_gap"])) < 0.02
    assert len({row["adapter_sha256"] for row in trained.values()}) == 3
    assert "Nothing here has run on a Cerebras CS-3" in (study.folder / "results/analysis/EXPERIMENTS.md").read_text()
    assert list(study.folder.rglob("*.mdl")) == []
    assert study.planned("results/analysis/summary.csv") == {}


@pytest.mark.skipif(not Path(PYTHON).exists(), reason="Snakemake's environment is not there: make .venv/installed")
def test_without_an_appliance_nothing_is_compiled_trained_or_tried_again(tmp_path, tiny_models):
    study = Study(tmp_path / "study", python=PYTHON)
    settings = {"python": sys.executable, "sequence_length": 128, "lock": str(tmp_path / "lock")}
    cells = {**CELLS, "sparsities": [0]}
    study.configure({"llama": tiny_models["llama"]}, grid=cells, backend="cerebras", cerebras=settings, **TINY_STUDY)
    printed = study.snakemake("train", expect=1)
    assert "error: this machine knows no Cerebras appliance (" in printed
    assert "mgmt_address has no default value" in printed
    assert printed.count("Trying to restart") == 2  # and at once refused: the trainer itself ran once
    [log] = study.folder.glob("results/logs/compile_program/*.log")
    assert len(log.read_text().splitlines()) == 1
    assert list(study.folder.rglob("compile.json")) == list(study.folder.rglob("train.json")) == []


@pytest.fixture
def box(tmp_path, tiny_models) -> Path:
    """The tiny LLaMA's masks and two tasks."""
    for method in ("unstructured", "random"):
        masks = [tmp_path / f"{method}{percent}.pt" for percent in (50, 80)]
        files = PassFiles(masks, tmp_path / f"report_{method}.json")
        compute_masks(Checkpoint(tiny_models["llama"]), method, [50, 80], files, Masks())
    for task in ("boolq_mini", "gsm8k_mini"):
        (tmp_path / task).mkdir()
        for split, number in (("train", 16), ("validation", 4)):
            rows = BY_NAME[task].generate(split, number, 0)
            (tmp_path / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def flags(box: Path, model: Path, run: Run, output: Path, **changes: object) -> list:
    given = {"run_id": run.id, "model_path": model, "mask_path": box / f"{run.method}{run.sparsity}.pt",
             "data_dir": box / run.task, "output_dir": output, "sequence_length": 128, "steps": 3, "batch_size": 4,
             "micro_batch_size": 4} | changes  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_runs_that_share_a_program_lower_to_one_graph_and_others_do_not(box, tiny_models):
    base = Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_sparse", 0)
    others = [Run("llama", "gsm8k_mini", "unstructured", 50, "sparse_to_sparse", 0),
              Run("llama", "boolq_mini", "random", 50, "sparse_to_sparse", 1),
              Run("llama", "boolq_mini", "unstructured", 80, "sparse_to_sparse", 0),
              Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_dense", 0)]  # fmt: skip
    raw = {"models": {"llama": {"source": "path:x"}}, "backend": "cerebras", **TINY_STUDY,
           "grid": {**CELLS, "tasks": ["boolq_mini", "gsm8k_mini"], "methods": ["unstructured", "random"],
                    "sparsities": [0, 50, 80], "seeds": [0, 1]}}  # fmt: skip
    study, graphs, names = parse_section(Config, raw, "configuration"), [], []
    for run in (base, *others):
        output = box / run.id
        done = run_script("train_cerebras.py", *flags(box, tiny_models["llama"], run, output), "--validate_only")
        assert done.returncode == 0, done.stderr[-2000:]
        graphs.append(json.loads((output / "compile.json").read_text())["compile_hash"])
        names.append(program_name(study, training_program(study, run)))
    assert [name == names[0] for name in names] == [True, True, True, False, False]
    assert [graph == graphs[0] for graph in graphs] == [True, True, True, False, False]


def test_a_killed_training_goes_on_under_another_label(box, tiny_models):
    run = Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_dense", 0)
    settings = flags(box, tiny_models["llama"], run, box / "run", steps=40, save_every=1, target="CPU")
    command = [sys.executable, ROOT / "workflow/scripts/train_cerebras.py", *settings, "--job_labels"]
    process = subprocess.Popen([str(part) for part in (*command, "sparseft=one")], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((box / "run").glob("*.mdl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [str(part) for part in (*command, "sparseft=two")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((box / "run/train.json").read_text())["resumed_after_steps"] != []
