"""A killed training, and what it goes on from."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import HERE, ROOT, Inputs, trained

h5py = pytest.importorskip("h5py", reason="needs cerebras-pytorch (make test-cerebras)")
RUN = "llama-unstructured-50-sparse_to_sparse"


def kill_after(inputs: Inputs, output, state: str) -> None:
    """Start a training and kill it once `state` is complete."""
    command = [
        sys.executable,
        HERE / "patched.py",
        "train_cerebras.py",
        "",
        *inputs.flags(output, RUN),
        "--target",
        "CPU",
    ]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not complete(output / state):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def complete(path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("__SUCCESS__", False))
    except OSError:
        return False


def test_a_killed_training_goes_on_from_its_last_complete_state_to_the_same_numbers(inputs, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = trained(inputs.train(whole, RUN, target="CPU"), whole)
    kill_after(inputs, killed, "state_5.mdl")
    (last,) = (path for path in killed.glob("*.mdl") if complete(path))
    incomplete = killed / "state_18.mdl"
    incomplete.write_bytes(last.read_bytes())
    with h5py.File(incomplete, "a") as file:
        del file.attrs["__SUCCESS__"]
    (killed / "state_19.mdl").write_bytes(last.read_bytes()[:1000])
    (killed / "state_15.mdl.0a1b2c3d.tmp").write_bytes(last.read_bytes()[:1000])  # so the package names what it writes
    done = inputs.train(killed, RUN, target="CPU")
    record = trained(done, killed)
    assert f"{incomplete}: partly written: __SUCCESS__" in done.stderr
    assert f"{killed / 'state_19.mdl'}: truncated" in done.stderr
    assert record["resumed_after_steps"] == [int(last.stem.removeprefix("state_"))]
    assert (record["loss_curve"], record["eval_curve"]) == (expected["loss_curve"], expected["eval_curve"])
    assert record["outputs"] == expected["outputs"]
    assert not list(killed.glob("state_*"))


FILLS_THE_DISK = """
import sparseft.backends.cerebras.trainer as c
real = c.write_mdl
def write(folder, *given):
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - 8192)
    real(folder, *given)
c.write_mdl = write
"""


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_wafer_s_queue_and_no_half_of_a_state_stays_on_it(inputs, tmp_path, small_disk):
    run, stop, log = small_disk / "run", tmp_path / "stop", tmp_path / "run.log"
    trainer = [
        sys.executable,
        HERE / "patched.py",
        "train_cerebras.py",
        FILLS_THE_DISK,
        *inputs.flags(run, RUN),
        "--target",
        "CPU",
    ]
    command = [
        sys.executable,
        ROOT / "workflow/scripts/run_on_appliance.py",
        "--name",
        "run",
        "--log",
        log,
        "--stop",
        stop,
    ]
    with open(log, "w") as file:
        done = subprocess.run([str(part) for part in (*command, "--", *trainer)], stderr=file, check=False)
    line = stop.read_text()
    assert f"full ({stop}, of run)" in line
    assert done.returncode == 2
    assert log.read_text().splitlines()[-1] == f"error: {line}"
    assert "No space left on device" in log.read_text()
    assert {path.name for path in run.iterdir()} == {"cerebras_logs", "filler"}
    (run / "filler").unlink()
    assert trained(inputs.train(run, RUN, target="CPU"), run)["resumed_after_steps"] == []


def test_a_state_of_another_training_is_not_gone_on_from(inputs, tmp_path):
    kill_after(inputs, tmp_path, "state_5.mdl")
    done = inputs.train(tmp_path, RUN, target="CPU", learning_rate=0.02)
    assert trained(done, tmp_path)["resumed_after_steps"] == []
    assert ": of other code, inputs or settings" in done.stderr
