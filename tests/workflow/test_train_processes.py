"""train.py as processes: several that share a training, and one that is killed and goes on."""

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import forks
import psutil
import pytest
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from hub_cache import write_generated
from project import ROOT, read_record, succeed
from sparseft.storage.hashes import sha256
from sparseft.training.trainers.torch import hold_together
from tiny_models import save_tiny

# The first lines of a program whose rest runs in two processes.
IN_TWO = """import os, sys
from sparseft.common.errors import end
from sparseft.training.processes import share
if "LOCAL_RANK" not in os.environ:
    end(lambda: lambda: share(2))
"""
TRAIN = ROOT / "workflow/scripts/train.py"
SCHEDULE = {"steps": 16, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "save_every": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """A tiny model in fp32, a mask at 50 %, and a task."""
    folder = tmp_path_factory.mktemp("box")
    model = save_tiny("llama", folder / "model", torch.float32)
    succeed("compute_masks.py", model_path=model, output_dir=folder, sparsity=0.5, method="unstructured")
    write_generated(folder, "boolq_mini", 32, 5)
    return folder


def flags(box: Path, output: Path, **changes: object) -> list[str]:
    mask = box / "masks_sparsity50_unstructured.pt"
    places = {"model_path": box / "model", "mask_path": mask, "data_dir": box, "output_dir": output}
    run_id = "tiny-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
    values = {"run_id": run_id, **places, **SCHEDULE, **changes}
    return [f"--{name}={value}" for name, value in values.items()]


def train(box: Path, output: Path, processes: int = 1, **changes: object) -> dict:
    """Train in processes as torchrun starts them, and return train.json."""
    code, printed = forks.call(forks.script, "train.py", *flags(box, output, **changes), number=processes)
    assert code == 0, printed
    return read_record(output / "train.json")


def adapter(output: Path) -> Path:
    return output / "adapter/adapter_model.safetensors"


def wait_for(is_so: Callable[[], bool], is_alive: Callable[[], bool]) -> None:
    """Wait until something is so, or what makes it so has ended."""
    while is_alive() and not is_so():
        time.sleep(0.001)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_goes_on_to_the_adapter_of_an_undisturbed_one(box, tmp_path, processes):
    shard = int(processes > 1)
    whole = train(box, tmp_path / "whole", processes, shard_model=shard)
    killed, state = tmp_path / "killed", tmp_path / "killed/state.pt"
    words = flags(box, killed, shard_model=shard)
    running = forks.start(tmp_path / "printed", forks.script, "train.py", *words, number=processes)
    wait_for(state.exists, lambda: forks.are_alive(running))
    forks.kill(running)
    assert forks.wait(running) == -signal.SIGKILL
    assert not (killed / "train.json").exists()
    for name in ("state.pt.backup", "state.pt.9"):
        (killed / name).touch()
    resumed = train(box, killed, processes, shard_model=shard)
    assert sha256(adapter(killed)) == sha256(adapter(tmp_path / "whole"))
    assert resumed["loss_curve"] == whole["loss_curve"]
    assert 0 < resumed["resumed_after_steps"][0] < SCHEDULE["steps"]
    assert whole["resumed_after_steps"] == []
    assert [file.name for file in killed.glob("state.pt*")] == ["state.pt.backup"]


@pytest.mark.parametrize(("end", "last"), [("sys.exit(2)", "error: wrong; do"), ("os.abort()", "error: process ")])
def test_a_training_of_several_processes_ends_with_an_error_and_no_traceback(tmp_path, end, last):
    script = tmp_path / "script.py"
    script.write_text(f"{IN_TWO}sys.stderr.write('error: wrong; do\\n')\n{end}\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    assert lines[-1].startswith(last)


def hold_with_short_patience(folder: str) -> None:
    """Hold an output together. Every other wait of these processes ends after two seconds."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=2))])
    hold_together(Path(folder) / "adapter", accelerator)
    print(f"held {accelerator.process_index}")
    accelerator.end_training()


def test_no_process_loses_patience_while_another_training_holds_the_output(tmp_path):
    """NCCL's own patience is ten minutes."""
    printed = tmp_path / "printed"
    with open(tmp_path / ".adapter.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = forks.start(printed, hold_with_short_patience, str(tmp_path), number=2)
        wait_for(lambda: "is being written by" in printed.read_text(), lambda: forks.are_alive(running))
        time.sleep(4)
        assert "held" not in printed.read_text()
    assert forks.wait(running) == 0, printed.read_text()
    assert printed.read_text().count("held") == 2


def test_all_processes_wait_for_the_orphans_of_a_killed_launcher(box, tmp_path):
    """The orphans go on and save states. No process of the next command may read one of these."""
    train(box, tmp_path / "whole", 2, steps=32)
    command = [sys.executable, TRAIN, *flags(box, tmp_path / "killed", steps=32, processes=2)]
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "killed/state.pt").exists, lambda: launcher.poll() is None)
    orphans = psutil.Process(launcher.pid).children(recursive=True)
    # Stopped, so that they do not end before the next command has started.
    for orphan in orphans:
        orphan.suspend()
    launcher.kill()
    launcher.wait()
    printed = tmp_path / "printed"
    following = forks.start(printed, forks.script, "train.py", *flags(box, tmp_path / "killed", steps=32), number=2)
    wait_for(lambda: "is being written by process" in printed.read_text(), lambda: forks.are_alive(following))
    for orphan in orphans:
        orphan.resume()
    assert forks.wait(following) == 0, printed.read_text()
    psutil.wait_procs(orphans)
    assert sha256(adapter(tmp_path / "killed")) == sha256(adapter(tmp_path / "whole"))


def test_processes_add_in_one_order_whatever_the_size_of_a_message(tmp_path):
    (tmp_path / "script.py").write_text(f"{IN_TWO}print(os.environ.get('NCCL_ALGO'))")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Ring", "Ring"]
