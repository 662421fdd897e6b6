"""train.py on a GPU: the same bits twice and after a kill, and the same adapter on several GPUs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from project import ROOT, words_of
from safetensors.torch import load_file
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.storage.hashes import sha256

from masks import compute_masks, write_mask

SCHEDULE = {"steps": 12, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "lora_r": 16, "save_every": 1}
MODES = ["sparse_to_sparse", "sparse_to_dense"]
pytestmark = pytest.mark.parametrize("inputs", ["bfloat16", "float32"], indirect=True)


@pytest.fixture(scope="module")
def masked(inputs) -> Path:
    """Return the folder of the inputs, with a mask of single weights at 50 %."""
    write_mask(inputs / "mask.pt", compute_masks(Checkpoint(inputs / "model"), "unstructured", [50])[50])
    return inputs


def flags(inputs: Path, output: Path, mode: str, **changes: object) -> dict[str, object]:
    run_id = f"tiny-boolq_mini-unstructured-sparsity50-{mode}-seed0"
    places = {"model_path": inputs / "model", "mask_path": inputs / "mask.pt", "data_dir": inputs, "output_dir": output}
    return {"run_id": run_id, **places, **SCHEDULE, **changes}


def command(values: dict[str, object], processes: int = 1) -> list[str]:
    return [sys.executable, str(ROOT / "workflow/scripts/train.py"), *words_of({**values, "processes": processes})]


def train(values: dict[str, object], processes: int = 1) -> dict:
    done = subprocess.run(command(values, processes), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((values["output_dir"] / "train.json").read_text())


def weights_of(output: Path) -> Path:
    return output / "adapter/adapter_model.safetensors"


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_training_goes_on_to_the_bits_of_an_undisturbed_one(masked, tmp_path, device, note, mode):
    """The killed and the resumed training form a second one. So equal bits also prove that a training can be
    repeated."""
    whole = train(flags(masked, tmp_path / "whole", mode))
    assert whole["device"].startswith("GPU" if device.type == "cuda" else "CPU")
    killed = flags(masked, tmp_path / "killed", mode)
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed/state.pt").exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = train(killed)
    assert 0 < resumed["resumed_after_steps"][0] < SCHEDULE["steps"]
    assert resumed["loss_curve"] == whole["loss_curve"]
    assert sha256(weights_of(tmp_path / "killed")) == sha256(weights_of(tmp_path / "whole"))
    rate = whole["tokens_per_second"]
    note(f"{mode}, {masked.name}: same bits after a kill; {rate:.0f} tokens/s (a tiny model)")


@pytest.mark.parametrize("mode", MODES)
def test_all_gpus_together_train_the_adapter_of_one_with_whole_or_divided_models(masked, tmp_path, device, note, mode):
    # One per GPU, or two on a CPU.
    processes = torch.cuda.device_count() if device.type == "cuda" else 2
    if processes == 1:
        pytest.skip("needs at least two GPUs")
    changes = {"steps": 4, "batch_size": 4 * processes, "micro_batch_size": 2}
    one = train(flags(masked, tmp_path / "one", mode, **changes))
    several = train(flags(masked, tmp_path / "several", mode, **changes), processes)
    divided = train(flags(masked, tmp_path / "divided", mode, shard_model=True, **changes), processes)
    assert several["processes"] == processes
    # The sums of bfloat16 lose more.
    is_half = masked.name.startswith("bf")
    for key, bound in (("loss", 1e-2 if is_half else 1e-4), ("gradient_norm", 5e-2 if is_half else 1e-3)):
        ours, theirs = ([point[key] for point in record["loss_curve"]] for record in (several, one))
        assert ours == pytest.approx(theirs, rel=bound)
    share = close_share(weights_of(tmp_path / "one"), weights_of(tmp_path / "several"))
    assert share > (0.9 if is_half else 0.99)
    assert divided["loss_curve"] == several["loss_curve"]
    assert sha256(weights_of(tmp_path / "divided")) == sha256(weights_of(tmp_path / "several"))
    note(f"{mode}, {masked.name}, {processes} processes: {share:.4f} of A and B as in one; divided, the same bits")


@pytest.mark.parametrize("mode", MODES)
def test_weights_in_the_machine_s_memory_train_the_adapter_of_weights_on_the_gpu(masked, tmp_path, note, mode):
    outputs = [tmp_path / name for name in ("whole", "offloaded")]
    whole = train(flags(masked, outputs[0], mode, steps=4))
    offloaded = train(flags(masked, outputs[1], mode, steps=4, shard_model=True))
    assert offloaded["loss_curve"] == whole["loss_curve"]
    assert sha256(weights_of(outputs[1])) == sha256(weights_of(outputs[0]))
    megabytes = [record["peak_memory_bytes"] / 1e6 for record in (whole, offloaded)]
    note(f"{mode}, {masked.name}: same bits; {megabytes[0]:.0f} MB whole, {megabytes[1]:.0f} MB offloaded")


def close_share(one: Path, other: Path) -> float:
    """Return the share of two adapters' entries that differ by less than 1e-3 of the largest.

    Where a gradient is only rounding, AdamW makes a whole step of its sign."""
    theirs = load_file(other)
    close = [((own - theirs[name]).abs() < 1e-3 * own.abs().max()).flatten() for name, own in load_file(one).items()]
    return torch.cat(close).float().mean().item()
