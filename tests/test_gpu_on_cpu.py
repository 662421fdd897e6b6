"""The tests for a GPU run on the CPU too, so that a change of the library cannot break them unseen."""

import os
import subprocess
import sys

import pytest
from project import ROOT

# Of the trainings, that of one process in one mode in fp32. tests/workflow/test_train_processes.py has those of
# several and of a killed one, and most CPUs compute slowly in bf16.
FEWER = "not sparse_to_dense and not all_gpus_together and not killed and not (test_training_on_gpu and bfloat16)"


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_with_the_cpu_in_its_place():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-k", FEWER, "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    assert "| the effective weight has the bits of the cpu | 24 passed |  |" in done.stdout
