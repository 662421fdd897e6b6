"""A job whose Snakemake is killed; `make chaos` kills everything, thirty times."""

import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from chaos import configure, end_all, running, scripts, start
from project import Study
from sparseft.storage.record import trained_digest
from sparseft.study import grid
from sparseft.study.grid import Run
from tiny_models import save_tiny

RUN = Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_sparse", 0)
ADAPTER = f"{grid.fill(grid.ResultPaths().run, RUN)}/adapter"


@pytest.fixture
def study(tmp_path) -> Study:
    """A study whose next job is the training."""
    study = configure(tmp_path / "study", save_tiny("llama", tmp_path / "model"), 40)
    study.snakemake("masks/llama/masks_sparsity50_unstructured.pt", "data/boolq_mini/manifest.json")
    yield study
    end_all(study)


def training(study: Study) -> psutil.Process:
    """The training that runs, once it has its lock."""
    lock = (study.folder / ADAPTER).with_name(".adapter.lock")
    while not lock.exists():
        time.sleep(0.05)
    return next(process for name, process in scripts(running(study)) if name == "train.py")


def log_of_training(study: Study) -> str:
    """Empty while Snakemake, which removes a job's old log before the job begins, is between the two."""
    try:
        return (study.folder / f"results/logs/train_adapter/{RUN.id}.log").read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.slow
def test_the_job_of_the_next_command_waits_for_the_orphan_of_a_killed_one(study):
    undisturbed = Study(Path(shutil.copytree(study.folder, study.folder.with_name("undisturbed"))))
    killed = start(study, ADAPTER)
    orphan = training(study)
    orphan.suspend()  # so that it lives as long as the test needs it
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    study.snakemake("--unlock")
    resumed = start(study, ADAPTER)
    while f"is being written by process {orphan.pid} on " not in log_of_training(study):
        assert resumed.poll() is None
        time.sleep(0.05)
    orphan.resume()
    assert resumed.wait() == 0
    assert not orphan.is_running()
    undisturbed.snakemake(ADAPTER)
    assert trained_digest(study.folder / ADAPTER) == trained_digest(undisturbed.folder / ADAPTER)
