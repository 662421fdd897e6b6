"""Compare the measured memory with what the kernel reports."""

import subprocess
import sys

import pytest

BLOCK = 300_000_000
MEASURE = f"""
import resource, torch
from sparseft.language_model.hardware import peak_memory
device = torch.device("cpu")
before = peak_memory(device)
block = bytes(1) * {BLOCK}
del block
print(before, peak_memory(device), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is itself what is reported")
def test_peak_memory_is_the_kernel_s_largest_resident_set_and_keeps_what_was_freed():
    # A shell between the two: what the kernel counts for getrusage begins with what the parent held, here 2 MB.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, kernel = map(int, done.stdout.split())
    assert after == pytest.approx(kernel, rel=0.01)
    assert after - before == pytest.approx(BLOCK, rel=0.05)
