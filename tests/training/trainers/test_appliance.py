"""The process beside a trainer on an appliance: real processes, with stand-ins only for the trainer and for csctl."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from project import ROOT
from sparseft.training.trainers.appliance import BROKEN, FULL, cause

pytestmark = pytest.mark.process

SCRIPT = ROOT / "workflow/scripts/run_on_appliance.py"


@pytest.mark.parametrize(("printed", "expected"), [
    ("grpc: status = StatusCode.UNAVAILABLE", BROKEN),
    ("error: ApplianceDeadlockError: no progress (client.py, line 3); check the input", BROKEN),
    ("OSError: [Errno 122] Disk quota exceeded\nSocket closed", FULL),
    ("file write failed, errno = 122, buf = 0x1", FULL),
    ("errno = 1228", None),
    ("Socket closed\nerror: ImportError: no cerebras.pytorch", None),
    ("error: the loss is nan; lower training.learning_rate", None),
    ("step 502 of http: loss 2.0", None),
])  # fmt: skip
def test_a_failure_is_classified_by_what_the_trainer_printed(printed, expected):
    said = f"| Train Device=CSX, Step=50\n{printed}\n"
    assert cause(said) is expected


class Bench:
    """A folder with a trainer and a csctl to stand in for the real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for place in ("bin", "environment"):
            (folder / place).mkdir()
        self.starts, self.cancelled = folder / "starts", folder / "cancelled"
        self.environment = {**os.environ, "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HERE": str(folder)}

    def program(self, name: str, body: str, place: str = "bin") -> Path:
        path = self.folder / place / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
        return path

    def start(self, body: str, *flags: str, name: str = "run") -> subprocess.Popen:
        trainer = self.program(f"trainer_{name}", f'echo "$@" >> "$HERE/starts"\n{body}', "environment")
        log = self.folder / f"{name}.log"
        command = [sys.executable, SCRIPT, "--name", name, "--log", log, "--stop", self.folder / "stop", *flags]
        with open(log, "w") as file:
            return subprocess.Popen([str(part) for part in (*command, "--", trainer, "--steps", "3")], stderr=file,
                                    env=self.environment, cwd=self.folder)  # fmt: skip

    def run(self, *arguments: str, name: str = "run") -> int:
        return self.start(*arguments, name=name).wait()

    def log(self, name: str = "run") -> str:
        return (self.folder / f"{name}.log").read_text()

    def wait_for_end(self, pid: int) -> None:
        """Wait for the end of a process that is not a child of this one. Its parent may leave a zombie."""
        with suppress(psutil.NoSuchProcess):
            for _ in range(500):
                if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    return
                time.sleep(0.02)
            raise AssertionError(f"process {pid} still runs")

    def wait_for(self, path: Path, text: str = "") -> None:
        for _ in range(500):
            if path.exists() and text in path.read_text():
                return
            time.sleep(0.02)
        raise AssertionError(f"{path} did not come, or not with {text!r}")


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_a_lost_connection_is_tried_again_with_the_same_flags_and_a_new_label(bench):
    body = '[ "$(wc -l < $HERE/starts)" -gt 1 ] || { echo StatusCode.UNAVAILABLE; exit 1; }'
    assert bench.run(body, "--job_labels", "name=x") == 0
    first, second = bench.starts.read_text().splitlines()
    assert first.startswith("--steps 3 --job_labels name=x sparseft=")
    assert first.rpartition(" ")[0] == second.rpartition(" ")[0]
    assert first != second


@pytest.mark.parametrize(("body", "starts", "line"), [
    ("echo Socket closed; exit 1", 3, "error: run ended with code 1 in 3 attempts; .*"),
    ("echo 'error: the mask is of another model; give its own' >&2; exit 2", 1, "error: the mask .*; give its own"),
    ("kill -9 $$", 1, "error: run .*signal 9.*"),
])  # fmt: skip
def test_a_lost_connection_is_tried_three_times_and_what_cannot_succeed_once(bench, body, starts, line):
    assert bench.run(body) == 2
    assert len(bench.starts.read_text().splitlines()) == starts
    assert re.fullmatch(line, bench.log().splitlines()[-1])
    assert bench.log().count("error: ") == 1


def test_a_full_quota_stops_every_later_job(bench):
    assert bench.run("echo 'OSError: [Errno 122] Disk quota exceeded' >&2; exit 1", name="one") == 2
    assert bench.run("exit 0", name="two") == 2
    line = bench.log("one").splitlines()[-1]
    assert line.startswith("error: ")
    assert f"full ({bench.folder / 'stop'}, of one)" in line
    assert bench.log("two") == line + "\n"
    assert len(bench.starts.read_text().splitlines()) == 1


LISTED = """
SESSION       NAME                          TYPE     PRIORITY  AGE  DURATION  PHASE    SYSTEMS  USER     LABELS
job-operator  wsjob-other  execute  P2 (299)  1m   1m  RUNNING  x  someone  sparseft=0123,name=y
job-operator  wsjob-ours1  execute  P2 (299)  1m   1m  RUNNING  x  someone  $LABEL,name=x
"""
CSCTL = f"""
LABEL=$(grep -o 'sparseft=[0-9a-f]*' $HERE/starts)
[ "$1 $2" = "get jobs" ] && echo "{LISTED}"
[ "$1 $2" = "cancel job" ] && echo $3 >> $HERE/cancelled
true
"""


# A process whose child was killed by signal 9 exits with 137.
@pytest.mark.parametrize(
    ("body", "cancelled"), [("kill -9 $$", ["wsjob-ours1"]), ("exit 137", ["wsjob-ours1"]), ("exit 2", [])]
)
def test_the_job_of_a_trainer_that_was_killed_is_cancelled_and_one_that_failed_has_ended_it(bench, body, cancelled):
    bench.program("csctl", CSCTL)
    assert bench.run(body) == 2
    assert (bench.cancelled.read_text().split() if bench.cancelled.exists() else []) == cancelled


def test_a_job_that_could_not_be_cancelled_is_reported(bench):
    bench.program("csctl", CSCTL.replace("echo $3 >> $HERE/cancelled", "exit 1"))
    assert bench.run("kill -9 $$") == 2
    label = bench.starts.read_text().split()[-1]
    assert re.search(f"no job was cancelled.*csctl get jobs | grep {label}", bench.log())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_trainer_and_cancels_only_its_own_job(bench, number):
    bench.program("csctl", CSCTL)
    process = bench.start("sleep 60 & echo $! > $HERE/child; wait")
    bench.wait_for(bench.folder / "child")
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert bench.cancelled.read_text() == "wsjob-ours1\n"
    assert "no job was cancelled" not in bench.log()
    assert bench.log().splitlines()[-1].startswith("interrupted: ")
    bench.wait_for_end(int((bench.folder / "child").read_text()))


def test_a_second_attempt_ends_by_a_signal_too_and_without_csctl(bench):
    process = bench.start(
        '[ "$(wc -l < $HERE/starts)" -gt 1 ] || { echo UNAVAILABLE; exit 1; }; touch $HERE/begun; sleep 60'
    )
    bench.wait_for(bench.folder / "begun")
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM


def test_two_jobs_take_the_appliance_in_turn_and_the_second_says_that_it_waits(bench):
    lock = ("--lock", str(bench.folder / "lock"))
    first = bench.start("touch $HERE/begun; until [ -e $HERE/go ]; do sleep 0.02; done; date +%s%N > $HERE/end", *lock)
    bench.wait_for(bench.folder / "begun")
    second = bench.start("date +%s%N > $HERE/start", *lock, name="second")
    bench.wait_for(bench.folder / "second.log", "waits")
    assert f"second waits: {bench.folder / 'lock'} is held by another job" in bench.log("second")
    (bench.folder / "go").touch()
    assert (first.wait(20), second.wait(20)) == (0, 0)
    assert int((bench.folder / "end").read_text()) < int((bench.folder / "start").read_text())


def test_a_trainer_whose_parent_was_killed_still_holds_the_appliance(bench):
    lock = ("--lock", str(bench.folder / "lock"))
    first = bench.start("touch $HERE/begun; until [ -e $HERE/go ]; do sleep 0.02; done; touch $HERE/end", *lock)
    bench.wait_for(bench.folder / "begun")
    first.kill()
    first.wait()
    second = bench.start("[ -e $HERE/end ]", *lock, name="second")
    bench.wait_for(bench.folder / "second.log", "waits")
    (bench.folder / "go").touch()
    assert second.wait(20) == 0
