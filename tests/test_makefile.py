"""The Makefile lists its own targets, and those for a GPU need one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# make tells the programs that it starts, such as these tests, that another make has started them. Then it prints more
# lines.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_lists_every_target_on_one_line():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = dict(re.findall(r"^make (\S+) +(\S.*)$", make(), re.MULTILINE))
    assert list(listed) and set(listed) == set(phony.split())
    assert make("help") == make()


@pytest.mark.slow
def test_without_a_gpu_its_tests_end_with_one_line_and_a_code_that_is_not_0():
    recipe = make("--dry-run", "--assume-old=.venv/installed-tests", f"BIN={Path(sys.executable).parent}", "test-gpu")
    command = recipe.splitlines()[0].split()
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "no GPU: " in line
