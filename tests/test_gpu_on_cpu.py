"""The programs for a GPU run on the CPU too, so that a change of the library cannot break them unseen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = ("benchmarks/lora_gpu.py", "--shapes", "64x48", "--tokens", "32", "--repeats", "1")
MODEL = ("benchmarks/lora_model_gpu.py", "--layers", "1", "--size", "tiny", "--tokens", "16", "--turns", "1")


def run(*arguments: str) -> str:
    """Run a Python program of the project on the CPU, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, *arguments, "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Of the trainings, those of one dtype and one mode, because each takes several processes.
FEWER = "not sparse_to_dense and not (test_training_on_gpu and float32)"


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_with_the_cpu_in_its_place():
    printed = run("-m", "pytest", "tests/gpu", "-k", FEWER)
    assert "skipped" not in printed
    assert "log-likelihoods" in printed.partition(" measured ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("program", [LAYER, MODEL], ids=["layer", "model"])
def test_the_benchmarks_for_a_gpu_print_tables_on_the_cpu_and_write_none(program):
    results = ROOT / "benchmarks/results"
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    printed = run(*program)
    assert "| sparseft: " in printed
    assert printed.splitlines()[-1].startswith("measured: ")
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
