"""train.py as processes: several that share a training, and one that is killed and goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.storage.hashes import sha256
from sparseft.study.config import Masks
from sparseft.tasks import BY_NAME
from tiny_models import save_tiny

TRAIN = Path(__file__).parents[2] / "workflow/scripts/train.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
SCHEDULE = {"steps": 16, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "save_every": 1}


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def box(request, tmp_path_factory) -> Path:
    """A tiny model in fp32, a mask at 50 %, and a task."""
    folder = tmp_path_factory.mktemp("box")
    model = Checkpoint(save_tiny(request.param, folder / "model", torch.float32))
    compute_masks(model, "unstructured", [50], PassFiles([folder / "mask.pt"], folder / "report.json"), Masks())
    for split, number in (("train", 32), ("validation", 4)):
        rows = BY_NAME["boolq_mini"].generate(split, number, 0)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(box: Path, output: Path, *, launch: tuple[str, ...] = (), **changes) -> list:
    schedule = [part for name, value in {**SCHEDULE, **changes}.items() for part in (f"--{name}", str(value))]
    run_id = "tiny-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
    return [sys.executable, *launch, TRAIN, "--run_id", run_id, "--model_path", box / "model",
            "--mask_path", box / "mask.pt", "--data_dir", box, "--output_dir", output, *schedule]  # fmt: skip


def adapter(output: Path) -> Path:
    return output / "adapter/adapter_model.safetensors"


def killed_with_its_processes(program: list, state: Path) -> None:
    """Start a program, and kill it with every process that it started, as soon as `state` exists."""
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not state.exists():
        time.sleep(0.001)
    # The program first, so that it does not see its processes end.
    for member in (process, *psutil.Process(process.pid).children(recursive=True)):
        member.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one_with_the_whole_model_or_half_of_it(box, tmp_path):
    two = (*TORCHRUN, "2")
    for name, launch, shard in (("one", (), 0), ("two", two, 0), ("half", two, 1)):
        run = command(box, tmp_path / name, launch=launch, steps=4, save_every=0, shard_model=shard)
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sha256(adapter(tmp_path / "two")) == sha256(adapter(tmp_path / "half"))
    one, two, half = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("one", "two", "half"))
    assert [record["processes"] for record in (one, two, half)] == [1, 2, 2]
    assert (two["loss_curve"], two["eval_loss"]) == (half["loss_curve"], half["eval_loss"])
    for key, accuracy in (("loss", 1e-5), ("gradient_norm", 1e-3)):  # AdamW would hide a factor in the norms
        ours, theirs = ([point[key] for point in record["loss_curve"]] for record in (two, one))
        assert ours == pytest.approx(theirs, rel=accuracy)
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    matrices, others = (load_file(adapter(tmp_path / name)) for name in ("one", "two"))
    for key, ours in matrices.items():
        close = (ours - others[key]).abs() < 1e-4 * ours.abs().max()
        assert close.float().mean() > 0.99  # where a gradient is all rounding, AdamW makes a step of its sign


@pytest.mark.slow
def test_processes_that_cannot_share_the_micro_batches_are_refused(box, tmp_path):
    done = subprocess.run(
        command(box, tmp_path / "out", launch=(*TORCHRUN, "2"), micro_batch_size=8), capture_output=True, text=True
    )
    assert "resources.processes: 2 processes cannot share 1 micro-batches" in done.stderr
    assert "training.micro_batch_size" in done.stderr
    assert not (tmp_path / "out/adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_killed_training_goes_on_to_the_adapter_of_an_undisturbed_one(box, tmp_path, processes):
    divided = {"launch": (*TORCHRUN, str(processes)), "shard_model": 1} if processes > 1 else {}
    run = command(box, tmp_path / "whole", **divided)
    subprocess.run(run, check=True, capture_output=True)
    run = command(box, tmp_path / "killed", **divided)
    state = tmp_path / "killed/state.pt"
    killed_with_its_processes(run, state)
    assert not (tmp_path / "killed/train.json").exists()
    subprocess.run(run, check=True, capture_output=True)
    assert sha256(adapter(tmp_path / "killed")) == sha256(adapter(tmp_path / "whole"))
    resumed, whole = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("killed", "whole"))
    assert resumed["loss_curve"] == whole["loss_curve"]
    assert 0 < resumed["resumed_after_steps"][0] < SCHEDULE["steps"]
    assert whole["resumed_after_steps"] == []
    assert not state.exists()


@pytest.mark.slow
def test_all_processes_wait_for_the_orphans_of_a_killed_launcher(box, tmp_path):
    """The orphans go on and save states. No process of the next command may read one of these."""
    divided = {"launch": (*TORCHRUN, "2"), "steps": 32}
    subprocess.run(command(box, tmp_path / "whole", **divided), check=True, capture_output=True)
    run = command(box, tmp_path / "killed", **divided)
    launcher = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while launcher.poll() is None and not (tmp_path / "killed/state.pt").exists():
        time.sleep(0.001)
    orphans = psutil.Process(launcher.pid).children(recursive=True)
    # Stopped, so that they do not end before the next command has started.
    for orphan in orphans:
        orphan.suspend()
    launcher.kill()
    launcher.wait()
    following = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
    line = next(line for line in following.stderr if "is being written by process" in line)
    for orphan in orphans:
        orphan.resume()
    rest = following.stderr.read()
    assert following.wait() == 0, line + rest
    psutil.wait_procs(orphans)
    assert sha256(adapter(tmp_path / "killed")) == sha256(adapter(tmp_path / "whole"))


@pytest.mark.slow
def test_processes_end_a_hopeless_training_at_one_step(box, tmp_path):
    early = {"stop_if_loss_above": 0.001, "stop_if_after_steps": 3, "learning_rate": 1e-6, "save_every": 2}
    for name, launch in (("one", ()), ("two", (*TORCHRUN, "2"))):
        run = command(box, tmp_path / name, launch=launch, **early)
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / name / "train.json").read_text())
        assert record["ended_early"]["step"] == len(record["loss_curve"]) == 3
        assert adapter(tmp_path / name).exists()
        assert not (tmp_path / name / "state.pt").exists()
