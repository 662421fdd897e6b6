"""numba compiles the loops even if it cannot keep the compiled code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sparseft

USE = """
import numpy as np
from sparseft.axes.selection.kernels import count_high
import sparseft.training.lora.cpu_weights
counts = np.zeros(1 << 16, np.int32)
count_high(np.array([7, 7], np.uint16), counts)
print(counts[7])
"""


@pytest.mark.long
def test_without_a_folder_for_compiled_code_the_loops_compile_anew_and_it_is_said_once(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(Path(sparseft.__file__).parent, tmp_path / "sparseft", ignore=ignore)
    for folder in ("axes/selection", "training/lora"):
        # A file takes the folder's place, because root may write to any folder.
        (package / folder / "__pycache__").touch()
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/none"}
    done = subprocess.run([sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("note: ")
    assert "NUMBA_CACHE_DIR" in done.stderr
