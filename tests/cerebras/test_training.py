"""Twenty steps on the package's CPU backend, beside the torch backend's; killed and continued; a disk that is full."""

import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from project import is_whole, small_disk
from runs import CPU, HERE, SCRIPTS, in_default_environment, trained
from tiny_models import PRUNABLE_LAYERS, TYPICAL

RUNS = ("dense-00-sparse_to_dense", "unstructured-50-sparse_to_dense", "unstructured-50-sparse_to_sparse")
CASES = [f"{model}-{run}" for model in TYPICAL for run in RUNS]
RUN = "llama-unstructured-50-sparse_to_sparse"
FULL = {"learning_rate": None, "lora_r": None, "full_learning_rate": 0.01}


@pytest.mark.parametrize(
    "run",
    [
        *CASES,
        "llama-structured-50-sparse_to_sparse",
        "llama-unstructured-50-full_sparse_to_sparse",
        "mixtral-unstructured-50-full_sparse_to_sparse",
        "llama-unstructured-50-full_sparse_to_dense",
    ],
)
def test_the_losses_are_the_torch_backend_s_and_the_adapter_merges_to_the_same_model(inputs, tmp_path, run):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    schedule = FULL if "full" in run else {}
    record = trained(inputs.train(ours, run, target="CPU", **schedule), ours)
    in_default_environment(SCRIPTS / "train.py", *inputs.flags(theirs, run, sequence_length=None, **schedule))
    reference = json.loads((theirs / "train.json").read_text())
    pairs = list(zip(record["loss_curve"], reference["loss_curve"], strict=True))
    assert len(pairs) == 20
    assert max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in pairs) < 1e-4
    rates = [[point["learning_rate"] for point in curve["loss_curve"]] for curve in (record, reference)]
    assert rates[0] == pytest.approx(rates[1], abs=1e-8)
    assert max(rates[0]) == pytest.approx(0.01)  # out of the warm-up
    assert record["updates"] == reference["updates"] == 19
    assert (record["device"], record["dtype"]) == (CPU, "float32")
    deciding = {"target": "CPU", "sequence_length": 256, "csx_micro_batch_size": "auto", "num_csx": 1}
    assert record["cerebras"] == deciding
    for counted in ("trainable_parameters", "tokens"):
        assert record[counted] == reference[counted]
    assert not list(ours.glob("*.mdl"))
    fate = in_default_environment(HERE / "reference.py", "follow", inputs.folder, ours, run, theirs)
    assert (fate["passed"], fate["violations"], fate["zero_factors"]) == (True, 0, 0)
    assert fate["layers_checked"] == PRUNABLE_LAYERS[run.split("-")[0]]
    assert fate["apart"] < 1e-2 < fate["moved"]


def test_a_killed_training_goes_on_from_its_last_complete_state_to_the_same_numbers(inputs, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = trained(inputs.train(whole, RUN, target="CPU"), whole)
    command = inputs.command(killed, RUN, target="CPU", job_labels="sparseft=one")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not is_whole(killed / "state_5.mdl"):
            time.sleep(0.01)
        process.kill()
    (last,) = (path for path in killed.glob("*.mdl") if is_whole(path))
    incomplete = killed / "state_18.mdl"
    incomplete.write_bytes(last.read_bytes())
    with h5py.File(incomplete, "a") as file:
        del file.attrs["__SUCCESS__"]
    (killed / "state_19.mdl").write_bytes(last.read_bytes()[:1000])
    (killed / "state_15.mdl.0a1b2c3d.tmp").write_bytes(last.read_bytes()[:1000])  # so the package names what it writes
    # Every attempt has a label of its own.
    done = inputs.train(killed, RUN, target="CPU", job_labels="sparseft=two")
    record = trained(done, killed)
    assert f"{incomplete}: truncated" in done.stderr
    assert f"{killed / 'state_19.mdl'}: truncated" in done.stderr
    assert record["resumed_after_steps"] == [int(last.stem.removeprefix("state_"))]
    assert (record["loss_curve"], record["outputs"]) == (expected["loss_curve"], expected["outputs"])
    assert not list(killed.glob("state_*"))


FILLS_THE_DISK = """
import sparseft.training.trainers.cerebras.trainer as c
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
def disk(tmp_path) -> Path:
    with small_disk(tmp_path / "disk", 1 << 24) as folder:
        yield folder


def test_a_full_disk_stops_the_wafer_s_queue_and_no_half_of_a_state_stays_on_it(inputs, tmp_path, disk):
    run, stop, log = disk / "run", tmp_path / "stop", tmp_path / "run.log"
    trainer = inputs.command(run, RUN, patch=FILLS_THE_DISK, target="CPU")
    flags = ["--name", "run", "--log", log, "--stop", stop, "--", *trainer]
    command = [str(part) for part in (sys.executable, SCRIPTS / "run_on_appliance.py", *flags)]
    with open(log, "w") as file:
        done = subprocess.run(command, stderr=file, check=False)
    line = stop.read_text()
    assert f"full ({stop}, of run)" in line
    assert done.returncode == 2
    assert log.read_text().splitlines()[-1] == f"error: {line}"
    assert "No space left on device" in log.read_text()
    assert {path.name for path in run.iterdir()} == {"cerebras_logs", "filler"}
    (run / "filler").unlink()
    assert trained(inputs.train(run, RUN, target="CPU"), run)["resumed_after_steps"] == []
