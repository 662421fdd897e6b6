"""The tests for a GPU run on the CPU too, so that a change of the library cannot break them unseen."""

import os
import subprocess
import sys

import pytest
from project import ROOT

# Of the trainings, those of one mode in fp32, because each takes several processes, and most CPUs compute slowly in bf16.
FEWER = "not sparse_to_dense and not (test_training_on_gpu and bfloat16)"


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_with_the_cpu_in_its_place():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-k", FEWER, "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    assert "log-likelihoods" in done.stdout.partition(" measured ")[2]
