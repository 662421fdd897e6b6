"""train.py as processes: several that share a training, and one that is killed and goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.storage.hashes import sha256
from sparseft.study.config import Masks
from sparseft.tasks import get_task
from tiny_models import save_tiny

TRAIN = Path(__file__).parents[2] / "workflow/scripts/train.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SCHEDULE = {"steps": 40, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "save_every": 1}


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def box(request, tmp_path_factory) -> Path:
    """A tiny model in fp32, a mask at 50 %, and a task."""
    folder = tmp_path_factory.mktemp("box")
    model = Checkpoint(save_tiny(request.param, folder / "model", torch.float32))
    compute_masks(model, "unstructured", [50], PassFiles([folder / "mask.pt"], folder / "report.json"), Masks())
    for split, number in (("train", 32), ("validation", 4)):
        rows = get_task("boolq_mini").generate(split, number, 0)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(box: Path, output: Path, *, launch: tuple[str, ...] = (), **changes) -> list:
    schedule = [part for name, value in {**SCHEDULE, **changes}.items() for part in (f"--{name}", str(value))]
    run_id = "tiny-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
    return [sys.executable, *launch, TRAIN, "--run_id", run_id, "--model_path", box / "model",
            "--mask_path", box / "mask.pt", "--data_dir", box, "--output_dir", output, *schedule]  # fmt: skip


def adapter(output: Path) -> Path:
    return output / "adapter/adapter_model.safetensors"


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one_each_with_the_whole_model_or_half_of_it(box, tmp_path):
    for name, launch, shard in (("one", (), 0), ("two", TORCHRUN, 0), ("half", TORCHRUN, 1)):
        run = command(box, tmp_path / name, launch=launch, steps=4, save_every=0, shard_model=shard)
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = {name: load_file(adapter(tmp_path / name)) for name in ("one", "two", "half")}
    records = [json.loads((tmp_path / name / "train.json").read_text()) for name in found]
    assert [record["processes"] for record in records] == [1, 2, 2]
    losses = [[point["loss"] for point in record["loss_curve"]] for record in records]
    norms = [[point["gradient_norm"] for point in record["loss_curve"]] for record in records]
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-5)
        assert norms[other] == pytest.approx(norms[0], rel=1e-3)  # AdamW would hide a factor
        assert records[other]["eval_loss"] == pytest.approx(records[0]["eval_loss"], rel=1e-4)
    for key, ours in found["one"].items():
        for other in ("two", "half"):
            close = (ours - found[other][key]).abs() < 1e-4 * ours.abs().max()
            assert close.float().mean() > 0.99  # where a gradient is all rounding, AdamW makes a step of its sign


@pytest.mark.slow
def test_processes_that_cannot_share_the_micro_batches_are_refused(box, tmp_path):
    done = subprocess.run(
        command(box, tmp_path / "out", launch=TORCHRUN, micro_batch_size=8), capture_output=True, text=True
    )
    assert "resources.processes: 2 processes cannot share 1 micro-batches" in done.stderr
    assert "training.micro_batch_size" in done.stderr
    assert not (tmp_path / "out/adapter").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_adapter_of_an_undisturbed_one(box, tmp_path):
    subprocess.run(command(box, tmp_path / "whole"), check=True, capture_output=True)
    state = tmp_path / "killed/state.pt"
    process = subprocess.Popen(command(box, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not state.exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/train.json").exists()
    subprocess.run(command(box, tmp_path / "killed"), check=True, capture_output=True)
    assert sha256(adapter(tmp_path / "killed")) == sha256(adapter(tmp_path / "whole"))
    resumed, whole = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("killed", "whole"))
    assert resumed["loss_curve"] == whole["loss_curve"]
    assert 0 < resumed["resumed_after_steps"][0] < 40
    assert whole["resumed_after_steps"] == []
    assert not state.exists()
