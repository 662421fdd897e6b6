"""An output has one writer. A second one says that it waits, and writes after the first one has ended in any way."""

import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HOLD = """
import sys
from sparseft.storage.locks import hold
hold(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen:
    """Start a process that holds `path` until it reads a line."""
    command = [sys.executable, "-c", HOLD, path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ended", ["by itself", "killed"])
def test_the_second_waits_for_the_first_and_says_so(tmp_path, ended):
    output = tmp_path / "run/adapter"
    with holder(output) as first, holder(output) as second:
        printed = select.select([first.stderr, second.stderr], [], [], 60)[0]
        waiting, holding = (first, second) if first.stderr in printed else (second, first)
        line = waiting.stderr.readline()
        assert str(output) in line
        assert f"process {holding.pid} on " in line
        assert "waiting" in line
        assert holding.stdout.readline() == "held\n"
        if ended == "killed":
            holding.send_signal(signal.SIGKILL)
        else:
            holding.communicate("go\n", timeout=60)
        assert waiting.stdout.readline() == "held\n"
        waiting.communicate("go\n", timeout=60)
        assert waiting.returncode == 0
    assert list((tmp_path / "run").iterdir()) == []


def test_three_that_come_and_go_never_hold_together(tmp_path):
    """A lock's file is removed with its holder. A process that waited for the removed file must not count it as held."""
    script = """
import sys
from pathlib import Path
from sparseft.storage.locks import hold
folder = Path(sys.argv[1])
hold(folder / "output")
mark = folder / "inside"
mark.touch(exist_ok=False)
mark.unlink()
"""
    running = [subprocess.Popen([sys.executable, "-c", script, tmp_path], stderr=subprocess.PIPE) for _ in range(12)]
    ends = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * 12, ends
    assert list(tmp_path.iterdir()) == []
