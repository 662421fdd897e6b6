"""The Makefile lists its own targets."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_lists_every_target_on_one_line():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = dict(re.findall(r"^make (\S+) +(\S.*)$", make(), re.MULTILINE))
    assert list(listed) and set(listed) == set(phony.split())
    assert make("help") == make()
